"""Synthetic hospitals against the published tables they are drawn from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner, Result

from client.cli import app
from client.site_config import read_site
from client.synthetic import HOSPITALS, synthesize
from client.synthetic.patients import CaseMix, draw_patients, with_prevalence
from shared_model.errors import ConfigurationError

MANY = 20_000
# Simulated by the authors of the tables with the same log odds ratios (central nodes in the model, texture not), in an
# unselected cohort (14 % with metastasis) and in one of lateral dissections (52 %).
UNSELECTED = CaseMix(intercept=-4.81, texture_effect=0.0, central_effect=1.6, central_intercept=-0.43)
DISSECTED = CaseMix(intercept=-2.51, texture_effect=0.0, central_effect=1.4, central_intercept=0.67)
ODDS_RATIOS = {
    "male": (1.56, 1.52),
    "under 45": (1.74, 1.64),
    "over 10 mm": (3.30, 2.92),
    "multifocal": (1.73, 1.64),
    "upper pole": (1.94, 1.88),
    "extension": (3.60, 3.23),
    "hashimoto": (0.77, 0.81),
    "microcalcification": (1.63, 1.59),
    "central nodes": (5.63, 4.17),
    "braf": (1.11, 1.08),
}


def exposures(v: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    columns = {
        "male": v["sex"] == "male",
        "under 45": v["age"] < 45,
        "over 10 mm": v["tumour_size"] > 10,
        "multifocal": v["multifocal"],
        "upper pole": v["pole"] == "upper",
        "extension": v["ete"] != "none",
        "hashimoto": v["hashimoto"],
        "microcalcification": v["calcification"] == "micro",
        "central nodes": v["central_nodes"],
        "braf": v["braf"],
    }
    return {name: column.to_numpy() for name, column in columns.items()}


def log_odds_ratio(exposed: NDArray[np.bool_], ill: NDArray[np.bool_]) -> tuple[float, float]:
    """Estimate and standard error (Woolf)."""
    cells = [np.sum(a & b) for a in (exposed, ~exposed) for b in (ill, ~ill)]
    return float(np.log(cells[0] * cells[3] / cells[1] / cells[2])), float(np.sqrt(sum(1.0 / cell for cell in cells)))


@pytest.mark.parametrize(("mix", "which"), [(UNSELECTED, 0), (DISSECTED, 1)], ids=["14 %", "52 %"])
def test_univariate_odds_ratios_are_the_published_ones(mix: CaseMix, which: int) -> None:
    patients = draw_patients(MANY, mix=mix, seed=1)
    for name, exposed in exposures(patients.variables).items():
        estimate, error = log_odds_ratio(exposed, patients.label)
        # 0.12: the tables leave the distribution of several variables open.
        assert abs(estimate - np.log(ODDS_RATIOS[name][which])) < 0.12 + 3.0 * error, name


@pytest.mark.parametrize(("mix", "central", "skip"), [(UNSELECTED, 0.45, None), (DISSECTED, 0.70, 0.16)])
def test_central_nodes_go_with_lateral_ones(mix: CaseMix, central: float, skip: float | None) -> None:
    patients = draw_patients(MANY, mix=mix, seed=2)
    nodes = patients.variables["central_nodes"].to_numpy()
    assert nodes.mean() == pytest.approx(central, abs=0.02)
    if skip is not None:
        assert np.mean(~nodes[patients.label]) == pytest.approx(skip, abs=0.02)


@pytest.mark.parametrize(
    ("texture_effect", "intercept", "prevalence", "oracle", "table"),
    [
        (0.0, -3.83, 0.14, 0.769, 0.769),
        (0.0, -1.52, 0.52, 0.753, 0.753),
        (2.0, -4.74, 0.14, 0.896, 0.698),
        (2.0, -1.49, 0.52, 0.882, 0.672),
    ],
)
def test_prevalence_and_oracle_auc_are_the_published_ones(
    texture_effect: float, intercept: float, prevalence: float, oracle: float, table: float
) -> None:
    patients = draw_patients(MANY, mix=CaseMix(intercept=intercept, texture_effect=texture_effect), seed=3)
    without_texture = patients.logit - texture_effect * patients.texture
    assert patients.label.mean() == pytest.approx(prevalence, abs=0.01)
    assert roc_auc_score(patients.label, patients.logit) == pytest.approx(oracle, abs=0.015)
    assert roc_auc_score(patients.label, without_texture) == pytest.approx(table, abs=0.02)


def test_marginal_distributions() -> None:
    v = draw_patients(MANY, mix=CaseMix(), seed=4).variables
    assert v["tumour_size"].median() == pytest.approx(6.5, rel=0.02)
    assert (v["tumour_size"] > 10).mean() == pytest.approx(0.26, abs=0.01)
    assert v["age"].between(14, 85).all()
    assert (v["sex"] == "male").mean() == pytest.approx(0.28, abs=0.01)
    assert v["capsule_distance"].mean() == pytest.approx(1.3 * 1.9, rel=0.03)
    assert v["pole"].value_counts(normalize=True)["upper"] == pytest.approx(0.27, abs=0.01)
    assert not v.isna().to_numpy().any()


def test_risk_is_calibrated() -> None:
    patients = draw_patients(MANY, mix=CaseMix(), seed=5)
    for low, high in [(0.0, 0.2), (0.4, 0.6), (0.8, 1.0)]:
        band = (patients.risk >= low) & (patients.risk < high)
        assert patients.label[band].mean() == pytest.approx(patients.risk[band].mean(), abs=0.02)


@pytest.mark.parametrize("prevalence", [0.02, 0.14, 0.52, 0.9])
def test_prevalence_can_be_asked_for(prevalence: float) -> None:
    mix = with_prevalence(CaseMix(texture_effect=2.0, size_median_mm=8.2), prevalence)
    assert draw_patients(MANY, mix=mix, seed=6).label.mean() == pytest.approx(prevalence, abs=0.012)


def test_patients_follow_from_the_seed() -> None:
    one, same, other = (draw_patients(50, mix=CaseMix(), seed=seed) for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(one.variables, same.variables)
    np.testing.assert_array_equal(one.risk, same.risk)
    assert not np.array_equal(one.risk, other.risk)


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.suffix != ".xlsx"}  # a workbook holds its date


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_an_export_follows_from_the_seed(hospital: str, tmp_path: Path) -> None:
    for out, seed in (("one", 1), ("same", 1), ("other", 2)):
        synthesize(tmp_path / out, hospital=hospital, patients=5, seed=seed)
    one, same, other = (contents(tmp_path / out) for out in ("one", "same", "other"))
    assert one == same
    assert one != other
    if hospital == "cedar":
        books = [pd.read_excel(tmp_path / out / "cedar" / "registry.xlsx", sheet_name=None) for out in ("one", "same")]
        for sheet, table in books[0].items():
            pd.testing.assert_frame_equal(table, books[1][sheet])


def test_a_whole_export_is_left_as_it_is_and_any_other_is_written_anew(tmp_path: Path) -> None:
    def write(seed: int) -> int:
        site_file = synthesize(tmp_path, hospital="hazel", patients=4, seed=seed)
        return (site_file.parent / "patients.parquet").stat().st_mtime_ns

    first = write(1)
    assert write(1) == first
    other = write(2)
    assert other != first
    (tmp_path / "hazel" / "site.toml").unlink()  # as if killed half-way
    assert write(2) != other


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_truth_lies_outside_the_hospital(hospital: str, tmp_path: Path) -> None:
    site_file = synthesize(tmp_path, hospital=hospital, patients=12, seed=1)
    assert site_file == tmp_path / hospital / "site.toml"
    truth = pd.read_parquet(tmp_path / "truth" / f"{hospital}.parquet")
    assert len(truth) == 12
    assert {"texture", "risk", "label"} <= set(truth.columns)
    assert read_site(site_file).site.name == hospital
    told = b"".join(contents(tmp_path / hospital).values())
    assert b"texture" not in told
    assert b"risk" not in told


def test_pictures_are_of_the_size_the_scanner_draws(tmp_path: Path) -> None:
    synthesize(tmp_path, hospital="cedar", patients=3, seed=1)
    pictures = sorted((tmp_path / "cedar" / "ultrasound").rglob("*.png"))
    assert len(pictures) == 9
    modes = set()
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 256  # 256 of ultrasound, and what the machine prints round it
            modes.add((picture.parent.name, image.mode))
    assert modes == {("transverse", "L"), ("longitudinal", "L"), ("colour", "RGB")}


@pytest.mark.parametrize(("hospital", "patients", "faults"), [("oak", 10, 1), ("alder", 0, 1), ("oak", -1, 2)])
def test_what_cannot_be_synthesized_is_told_at_once(hospital: str, patients: int, faults: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        synthesize(tmp_path / "out", hospital=hospital, patients=patients, seed=1)
    assert len(caught.value.faults) == faults
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigurationError, match="can be written"):
        synthesize(tmp_path / "taken", hospital="alder", patients=2, seed=1)


def test_the_command_prints_the_site_file_or_what_to_mend(tmp_path: Path) -> None:
    def run(hospital: str) -> Result:
        return CliRunner().invoke(app, ["synthesize", "--out", str(tmp_path), "--hospital", hospital, "--patients", "2"])

    written = run("birch")
    assert written.exit_code == 0
    assert Path(written.stdout.strip()) == tmp_path / "birch" / "site.toml"
    refused = run("oak")
    assert refused.exit_code == 2
    assert "maple, birch, cedar, hazel, alder" in refused.stderr
