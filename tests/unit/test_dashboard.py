"""The view of a run, the doors of the page, and what the page may do."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from server import cli
from server.dashboard import control as control_module
from server.dashboard.control import Control
from server.dashboard.doors import PAUSE_S, SESSION_S, TRIES, Doors, set_password
from server.dashboard.view import find_runs, look
from server.dashboard.web import make_app, span
from server.journal import Journal
from server.records import RoundRecord, SiteFailure, SiteRound
from server.run_directory import COMMAND, LOCK
from shared_model.errors import ConfigurationError, FailureCode, StudyError
from shared_model.explanations import Cell, ExplanationSummary
from shared_model.locking import alone
from shared_model.messages import ExplainReply
from shared_model.privacy_spent import PrivacySpent
from shared_model.protocol import Federation, Study, StudyProtocol, Training
from shared_model.protocol_explanation import Explanation
from shared_model.variables import Variable

PROTOCOL = StudyProtocol(
    study=Study(name="s", title="t", outcome="o"),
    variables={"age": Variable(kind="numeric", unit="years")},
    network={"kind": "logistic"},  # type: ignore[arg-type]
    training=Training(epochs=1),
    federation=Federation(rounds=5),
)
EXPLAINED = PROTOCOL.model_copy(
    update={
        "variables": {
            "age": Variable(kind="numeric", unit="years"),
            "marker": Variable(kind="numeric", unit="years", group="serum"),
        },
        "explanation": Explanation(),
    }
)
PASSWORD = "correct horse battery"


def a_round(number: int, *, sites: tuple[str, ...] = ("birch", "cedar", "hazel"), slow: str = "") -> RoundRecord:
    rows = {
        name: SiteRound(patients=40, loss=0.6, steps=4, seconds=90.0 if name == slow else 2.0, update_norm=1.0, tune=None)
        for name in sites
    }
    return RoundRecord(number, rows, 0.6 + 0.02 * number, 3.0, "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three sites in its third round: one failed, one is slow."""
    out = tmp_path / "runs" / "night"
    out.mkdir(parents=True)
    with Journal.create(
        out, PROTOCOL, run="r", engine="flower", seed=1, enrolled=("birch", "cedar", "hazel"), versions={}
    ) as journal:
        journal.event("phase", name="describe")
        journal.event("restored", round=0, rounds=5)
        journal.event("phase", name="train")
        for number in (1, 2):
            journal.event("round", round=number, rounds=5, sites=["birch", "cedar", "hazel"])
            journal.commit_round(a_round(number, slow="cedar"), {})
            journal.event("committed", round=number, metric="auc", selection=0.6, seconds=3.0)
        journal.event("asked", phase="train", sites=["birch", "cedar", "hazel"])
        journal.event("answered", phase="train", site="birch", seconds=2.0)
        journal.add_failure(SiteFailure("hazel", "train", 3, FailureCode.UNREACHABLE, "it could not be reached <b>"))
        journal.event("failed", phase="train", site="hazel", code="unreachable", reason="it could not be reached <b>")
    return out


def test_a_view_tells_what_each_site_does(run: Path) -> None:
    view = look(run)
    assert (view.status, view.phase, view.round, view.rounds) == ("stopped", "train", 2, 5)
    assert {site.name: site.state for site in view.sites} == {"birch": "answered", "cedar": "working", "hazel": "away"}
    assert [site.name for site in view.troubled] == ["hazel"]
    assert view.slow == {"cedar"}
    assert view.curve == ((1, pytest.approx(0.64)),)
    assert view.seconds_left is None  # nobody works in it
    assert any("hazel does not count" in text for _, text in view.timeline)


def test_what_a_site_has_spent_of_its_budget_is_shown_beside_its_limit(run: Path) -> None:
    spent = PrivacySpent(
        epsilon=1.0, epsilon_total=2.5, planned=3.0, limit=8.0, delta=1e-4, accountant="rdp", noise_multiplier=1.0,
        sampling_rate=0.1, steps=10, clipping="flat", clip_norm=1.0,
    )  # fmt: skip
    last = a_round(3)
    with Journal(run) as journal:
        journal.commit_round(replace(last, sites=last.sites | {"birch": replace(last.sites["birch"], privacy=spent)}), {})
    view = look(run)
    assert view.has_budget
    assert {site.name: (site.epsilon, site.epsilon_limit) for site in view.sites}["birch"] == (2.5, 8.0)
    assert {site.name: site.epsilon for site in view.sites}["cedar"] is None


def test_the_newest_explanation_is_of_all_sites_together(run: Path) -> None:
    """Two sites of 10 and 30 patients: shares are means over patients, contributions are log odds again."""

    def reply(site: str, patients: float, share: float, sizes: tuple[float, float]) -> ExplainReply:
        cells = {
            "modalities.share": Cell(patients, (patients * share, patients * (1.0 - share))),
            "variables.size": Cell(patients, tuple(patients * size for size in sizes)),
        }
        return ExplainReply(site, "token", ExplanationSummary(cells), seconds=1.0)

    with Journal.create(
        run.parent / "told", EXPLAINED, run="t", engine="flower", seed=1, enrolled=("birch", "cedar"), versions={}
    ) as journal:
        for number in (1, 2):
            journal.commit_round(a_round(number, sites=("birch", "cedar")), {})
            journal.add_explanation(number, reply("birch", 10.0, 0.2 * number, (0.1, 0.3)), brief=True)
            journal.add_explanation(number, reply("cedar", 30.0, 0.6, (0.1, 0.1)), brief=True)
    found = look(run.parent / "told").explanation
    assert found is not None
    assert (found.model, found.sites) == (2, 2)
    assert dict(found.shares) == pytest.approx({"clinical": 0.55, "serum": 0.45})
    clip = EXPLAINED.explanation.clip  # type: ignore[union-attr]
    assert dict(found.variables) == pytest.approx({"marker": clip * 0.15, "age": clip * 0.1})
    assert [name for name, _ in found.variables] == ["marker", "age"]
    assert look(run).explanation is None


def test_a_run_is_running_while_its_lock_is_held(run: Path) -> None:
    with alone(run / LOCK, otherwise=""):
        view = look(run)
    assert view.status == "running"
    assert view.seconds_left is not None
    assert look(run).status == "stopped"


def test_runs_are_found_newest_first_and_a_run_is_its_own_folder(run: Path) -> None:
    assert find_runs(run.parent) == [run]
    assert find_runs(run) == [run]
    assert find_runs(run / "models") == []


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (41.2, "41 s"), (720, "12 min"), (11_100, "3 h 05 min")])
def test_spans_are_for_people(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


# ---- doors


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    set_password(tmp_path / "password.json", PASSWORD)
    return Doors(tmp_path / "password.json")


def test_a_password_is_kept_as_a_hash_for_its_owner(tmp_path: Path, doors: Doors) -> None:
    file = tmp_path / "password.json"
    assert PASSWORD not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigurationError, match="12 or more"):
        set_password(file, "short")
    assert doors.login(PASSWORD)
    assert doors.login(PASSWORD + "x") is None


def test_sessions_end(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    token = doors.login(PASSWORD)
    assert doors.session(token) is not None
    assert doors.session("made up") is None
    now = time.monotonic()
    monkeypatch.setattr("server.dashboard.doors.monotonic", lambda: now + SESSION_S + 1)
    assert doors.session(token) is None


def test_guessing_closes_the_doors_for_a_while(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(TRIES):
        assert doors.login("wrong password") is None
    assert doors.closed
    assert doors.login(PASSWORD) is None
    now = time.monotonic()
    monkeypatch.setattr("server.dashboard.doors.monotonic", lambda: now + PAUSE_S + 1)
    assert doors.login(PASSWORD)


# ---- the page


@pytest.fixture
def page(run: Path, doors: Doors) -> Iterator[httpx.Client]:
    """A browser before the page, which is really served."""
    app = make_app(Control(run.parent), doors, hosts=["127.0.0.1"], secure=False)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", timeout_graceful_shutdown=1)
    )
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def inside(page: httpx.Client) -> httpx.Client:
    assert page.post("/login", data={"password": PASSWORD}).headers["location"] == "/"
    return page


def form_word(page: httpx.Client, path: str = "/") -> str:
    found = re.search(r'name="form" value="([^"]+)"', page.get(path).text)
    assert found
    return found.group(1)


@pytest.mark.parametrize("path", ["/", "/runs/night", "/runs/night/live", "/runs/night/report"])
def test_nothing_is_shown_to_strangers(page: httpx.Client, path: str) -> None:
    answer = page.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "hazel" not in answer.text


@pytest.mark.parametrize("path", ["/start", "/runs/night/stop", "/runs/night/resume", "/logout"])
def test_a_form_from_elsewhere_does_nothing(inside: httpx.Client, path: str) -> None:
    assert inside.post(path, data={"form": "guessed"}).status_code == 403
    assert inside.post(path, content=b"form=" + b"x" * 10_000).status_code == 413


def test_pages_load_nothing_from_elsewhere_and_escape(inside: httpx.Client) -> None:
    for path in ("/", "/runs/night", "/login"):
        answer = inside.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.findall(r"""(?:src|href)=["'](?!/)""", answer.text)
    assert "it could not be reached &lt;b&gt;" in inside.get("/runs/night").text


def test_a_foreign_host_name_is_refused(page: httpx.Client) -> None:
    assert page.get("/login", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("name", ["%2e%2e", "nobody", "night%2f..", ".dashboard.json"])
def test_only_runs_can_be_named(inside: httpx.Client, name: str) -> None:
    assert inside.get(f"/runs/{name}").status_code in {404, 405}
    assert inside.get(f"/runs/{name}/report").status_code in {404, 405}


def test_one_damaged_run_does_not_hide_the_others(inside: httpx.Client, run: Path) -> None:
    broken = run.parent / "broken"
    broken.mkdir()
    Journal.create(broken, PROTOCOL, run="b", engine="x", seed=0, enrolled=("a",), versions={})._database.execute(
        "DELETE FROM fact WHERE key = 'run'"
    )
    text = inside.get("/").text
    assert "damaged" in text
    assert "/runs/night" in text


def test_the_live_part_arrives_and_changes_with_the_run(inside: httpx.Client, run: Path) -> None:
    with inside.stream("GET", "/runs/night/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert any('data-status="stopped"' in line for line in until_blank(lines))
        with Journal(run) as journal:
            journal.event("warning", text="somebody tripped over a cable")
        assert any("tripped over a cable" in line for line in until_blank(lines))


def until_blank(lines: Iterator[str]) -> list[str]:
    return list(iter(lambda: next(lines), ""))


# ---- what the page may do

SLEEPER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
time.sleep(60)
"""


def test_stop_interrupts_the_command_at_work_and_resume_gives_it_again(run: Path) -> None:
    control = Control(run.parent)
    with pytest.raises(StudyError, match="no command is at work"):
        control.stop("night")
    with pytest.raises(StudyError, match="resume it at the terminal"):
        control.resume("night")
    arguments = [sys.executable, "-c", SLEEPER, str(run / LOCK)]
    (run / COMMAND).write_text(json.dumps({"arguments": arguments, "folder": str(run), "process": 1}))
    control.resume("night")
    wait_for(lambda: look(run).status == "running")
    with pytest.raises(StudyError, match="at work already"):
        control.resume("night")
    with pytest.raises(StudyError, match="which process"):
        control.stop("night")  # process 1 is not that command
    assert (run / "console.log").exists()
    (process,) = [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_command(p, str(run / LOCK))]
    (run / COMMAND).write_text(json.dumps({"arguments": arguments, "folder": str(run), "process": process}))
    control.stop("night")
    wait_for(lambda: look(run).status == "stopped")
    (child,) = control_module._children
    assert child.wait(20) != 0
    control_module._children.clear()


def is_command(process: Path, argument: str) -> bool:
    try:
        return argument.encode() in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_only_studies_that_are_there_can_be_started(tmp_path: Path, inside: httpx.Client, run: Path) -> None:
    studies = tmp_path / "studies"
    (studies / "heart").mkdir(parents=True)
    (studies / "heart" / "study.toml").write_text("")
    (studies / "heart" / "birch.toml").write_text("")
    control = Control(run.parent, studies)
    assert [(known.name, len(known.sites)) for known in control.launchable()] == [("heart", 1)]
    for study, name in (("../heart", "x"), ("nothing", "x"), ("heart", "../x"), ("heart", "a b"), ("heart", "night")):
        with pytest.raises(StudyError):
            control.start(study, name)
    answer = inside.post("/start", data={"form": form_word(inside), "study": "heart", "name": "x"})
    assert "no%20study%20of%20that%20name" in answer.headers["location"]
    assert not (run.parent / "x").exists()


# ---- commands


def test_watch_tells_how_a_run_stands(run: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["watch", str(run), "--once"])
    assert shown.exit_code == 0
    assert "round 2 of" in shown.output
    document = json.loads(CliRunner().invoke(cli.app, ["watch", str(run), "--json"]).output)
    assert {site["name"]: site["state"] for site in document["sites"]}["hazel"] == "away"


def test_watch_of_no_run_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["watch", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no run" in result.output


def test_the_page_is_not_served_in_the_clear_beyond_this_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["dashboard", str(tmp_path), "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "SSH tunnel" in result.output
