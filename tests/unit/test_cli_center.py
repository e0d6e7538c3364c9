"""``consilium-center`` as its user sees it: output, files, exit codes."""

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.tables import write_sites, write_study


def center(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("center")
    study, sites = write_study(folder), write_sites(folder)
    result = center("simulate", study, *sites, "--out", folder / "run", "--with-baselines", "--threads", 1)
    assert result.exit_code == 0, result.output
    return folder


def test_a_simulation_ends_with_results_and_says_where(finished: Path) -> None:
    run = finished / "run"
    for name in ("study.toml", "protocol.json", "environment.json", "journal.sqlite", "models/best.safetensors"):
        assert (run / name).is_file()
    results = json.loads((run / "results.json").read_text())
    assert set(results["sites"]) == {"east", "north", "west"}
    assert results["central"]["metrics"]["auc"]["value"] > 0.5
    assert results["sites"]["east"]["local_only"]["metrics"]["auc"] is not None
    assert results["logistic"]["metrics"]["auc"]["value"] > 0.5
    assert len((run / "per_site.csv").read_text().splitlines()) == 5
    assert "<svg" in (run / "report.html").read_text()


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    before = (finished / "run" / "models" / "best.safetensors").read_bytes()
    sites = [finished / f"{name}.toml" for name in ("east", "north", "west")]
    result = center("simulate", finished / "study.toml", *sites, "--out", finished / "run", "--threads", 1)
    assert result.exit_code == 0
    assert "nothing to train" in " ".join(result.output.split())
    assert (finished / "run" / "models" / "best.safetensors").read_bytes() == before


def test_the_report_can_be_made_anew(finished: Path) -> None:
    (finished / "run" / "report.html").unlink()
    result = center("report", finished / "run")
    assert result.exit_code == 0
    assert (finished / "run" / "report.html").is_file()


@pytest.mark.parametrize(("option", "value", "named"), [("--seed", 5, "seed"), ("--rounds", 9, "protocol")])
def test_a_folder_with_another_run_is_refused(finished: Path, option: str, value: int, named: str) -> None:
    sites = [finished / f"{name}.toml" for name in ("east", "north", "west")]
    result = center("simulate", finished / "study.toml", *sites, "--out", finished / "run", option, value)
    assert result.exit_code == 2
    assert f"run: {named}" in result.output
    assert "another --out" in result.output


def test_a_report_of_no_run_says_so(tmp_path: Path) -> None:
    result = center("report", tmp_path)
    assert result.exit_code == 1
    assert "holds no run" in result.output


def test_json_is_one_document_on_standard_output(tmp_path: Path) -> None:
    study, sites = write_study(tmp_path, rounds=1), write_sites(tmp_path)
    result = center("simulate", study, *sites, "--out", tmp_path / "run", "--json", "--threads", 1)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["run"]["rounds"] == 1


# The bad input tour: what is wrong, and words that the message must hold.


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def empty(folder: Path) -> None:
    path = folder / "east.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def two_parts(folder: Path) -> None:
    edit("east.toml", "[cohort.variables]", '[split]\ncolumn = "part"\n\n[cohort.variables]')(folder)
    lines = (folder / "east.csv").read_text().splitlines()
    body = [f"{line},train" for line in lines[1:]] + [f"{lines[1]},test"]
    (folder / "east.csv").write_text("\n".join([f"{lines[0]},part", *body]) + "\n")


TOUR = {
    "missing file": (lambda folder: (folder / "east.csv").unlink(), ["east.csv", "no such file"]),
    "missing site file": (lambda folder: (folder / "east.toml").unlink(), ["east.toml", "no such file"]),
    "unknown column": (edit("east.toml", '"size_cm"', '"size_mm"'), ["size_mm", "size_cm"]),
    "unknown key": (edit("east.toml", "patient_id", "patient"), ["patient"]),
    "unknown key of the study": (edit("study.toml", "rounds", "ronds"), ["ronds", "rounds"]),
    "unit typo": (edit("east.toml", 'unit = "cm"', 'unit = "c"'), ["unit", "'c'|\"c\"", "cm"]),
    "unit of ten": (edit("east.toml", 'unit = "cm"', 'unit = "m"'), ["size", "cm"]),
    "label with three codes": (edit("east.csv", ",no\n", ",perhaps\n"), ["perhaps", "outcome"]),
    "patient in two parts": (two_parts, ["east-0", "train", "test"]),
    "zero patients": (empty, ["east"]),
    "same name twice": (edit("east.toml", '"east"', '"west"'), ["west", "rename"]),
    "impossible combination": (
        edit("study.toml", "deadline_s", 'aggregation = { kind = "median" }\nclient_rule = { kind = "scaffold" }\ndeadline_s'),
        ["SCAFFOLD", "weighted_mean"],
    ),
}


@pytest.mark.parametrize("case", TOUR)
def test_bad_input_is_told_with_its_remedy_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    study, sites = write_study(tmp_path), write_sites(tmp_path)
    harm, words = TOUR[case]
    harm(tmp_path)
    result = center("simulate", study, *sites, "--out", tmp_path / "run", "--threads", 1)
    assert result.exit_code == 2, result.output
    assert "remedy:" in result.output
    assert "Traceback" not in result.output
    for word in words:
        assert re.search(word, result.output), f"{word!r} is not in:\n{result.output}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("file", "word"), [("none.safetensors", "No such file"), ("study.toml", "clinical_only")])
def test_weights_of_an_encoder_that_cannot_be_used_are_told(tmp_path: Path, file: str, word: str) -> None:
    study, sites = write_study(tmp_path), write_sites(tmp_path)
    result = center("simulate", study, *sites, "--out", tmp_path / "run", "--pretrained", tmp_path / file)
    assert result.exit_code == 2
    assert "--pretrained" in result.output
    assert word in result.output
    assert not (tmp_path / "run").exists()


def test_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    study, sites = write_study(tmp_path), write_sites(tmp_path)
    edit("study.toml", "rounds", "ronds")(tmp_path)
    edit("east.toml", "patient_id", "patient")(tmp_path)
    edit("north.toml", "[cohort]", "[cohort]\nwhat = 1")(tmp_path)
    result = center("simulate", study, *sites, "--out", tmp_path / "run")
    assert all(word in result.output for word in ("ronds", "east.toml", "what"))


def test_two_commands_do_not_work_in_one_run_directory(tmp_path: Path) -> None:
    study, sites = write_study(tmp_path, rounds=1), write_sites(tmp_path)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = center("simulate", study, *sites, "--out", tmp_path / "run", "--threads", 1)
    assert result.exit_code == 1
    assert "another command is at work" in result.output


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sites = write_study(tmp_path, rounds=3), write_sites(tmp_path)
    arguments = ("simulate", study, *sites, "--out", tmp_path / "run", "--threads", 1)
    written = 0
    fsync = os.fsync

    def full_at_the_second_round(descriptor: int) -> None:
        nonlocal written
        ours = "round-0002" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        written += ours
        if ours and written == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "round-0002.safetensors")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second_round)
    result = center(*arguments)
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "Traceback" not in result.output
    assert center(*arguments).exit_code == 0
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["rounds"]) == 3
