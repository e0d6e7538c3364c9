"""What a synthetic hospital writes: DICOM, REDCap, frames round pictures, missing values, and the truth beside it."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from client.cli import app
from client.cohort import load_cohort
from client.site_config import read_site
from client.synthetic import EXPORTS, SCANNERS, ceilings, synthesize
from client.synthetic.export import goes_missing
from client.synthetic.overlay import LEFT, TOP
from client.synthetic.patients import TIRADS, CaseMix, draw_patients
from client.synthetic.truth import truth_table
from shared_model.errors import ConfigurationError
from shared_model.protocol import read_protocol


@pytest.fixture(scope="module")
def maple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maple")
    synthesize(out, hospital="maple", patients=12, seed=3)
    return out


def truth_of(out: Path, hospital: str) -> pd.DataFrame:
    return pd.read_parquet(out / "truth" / f"{hospital}.parquet")


def test_dicom_objects_hold_the_region_its_scale_and_the_patient(maple: Path) -> None:
    objects = [pydicom.dcmread(file) for file in sorted((maple / "maple" / "dicom").rglob("*.dcm"))]
    assert 24 < len(objects) <= 36
    assert len({item.SOPInstanceUID for item in objects}) == len(objects)
    assert len({item.StudyInstanceUID for item in objects}) == 12
    for item in objects:
        region = item.SequenceOfUltrasoundRegions[0]
        assert item.SOPClassUID == pydicom.uid.UltrasoundImageStorage
        assert (region.RegionLocationMinX0, region.RegionLocationMinY0) == (LEFT, TOP)
        assert region.RegionLocationMaxX1 - region.RegionLocationMinX0 + 1 == SCANNERS["vesta_12"].pixels
        assert region.PhysicalDeltaX * 10.0 == pytest.approx(SCANNERS["vesta_12"].mm_per_pixel)
        assert item.pixel_array.shape[:2] == (item.Rows, item.Columns)
        assert (item.PhotometricInterpretation == "RGB") == (item.SeriesDescription == "THY CFM")
        assert str(item.PatientName)
        printed = item.pixel_array[:TOP]
        assert printed.max() > 150  # the patient's name, where no study may look


def test_the_image_list_names_each_object_with_its_lesion(maple: Path) -> None:
    listed = pd.read_csv(maple / "maple" / "image_list.csv").set_index("sop_instance_uid")
    for file in (maple / "maple" / "dicom").rglob("*.dcm"):
        item = pydicom.dcmread(file)
        row = listed.loc[item.SOPInstanceUID]
        assert (row["record_id"], row["series"]) == (item.PatientID, item.SeriesDescription)
        view = next(view for view, how in EXPORTS["maple"].views.items() if how.code == row["series"])
        mask = np.load(maple / "truth" / "maple" / f"{row['record_id']}_{view}.npz")["lesion"]
        assert mask.shape == (item.Rows, item.Columns)
        assert mask[row["y0"] : row["y1"], row["x0"] : row["x1"]].sum() == mask.sum() > 0


def test_redcap_holds_codes_that_its_dictionary_explains(maple: Path) -> None:
    table = pd.read_csv(maple / "maple" / "redcap_export.csv", dtype=str)
    dictionary = pd.read_csv(maple / "maple" / "redcap_data_dictionary.csv", dtype=str).set_index("Variable / Field Name")
    truth = truth_of(maple, "maple")
    assert table["record_id"].tolist() == truth["id"].tolist()
    choices = dictionary.loc["pole", "Choices, Calculations, OR Slider Labels"]
    codes = dict(choice.split(", ") for choice in choices.split(" | "))
    assert table["pole"].map(codes).str.lower().tolist() == truth["pole"].tolist()
    assert dictionary.loc["findings", "Field Type"] == "checkbox"
    assert (table["findings___2"] == "1").tolist() == truth["bilateral"].tolist()
    np.testing.assert_allclose(table["tumour_size"].astype(float) * 10.0, truth["tumour_size"], atol=0.051)
    assert (table["calcitonin"] == "-99").any()
    assert not table.isna().to_numpy().any()
    fields = {name.split("___")[0] for name in table.columns if not name.endswith("_complete")}
    assert fields == set(dictionary.index)


def test_dicom_and_redcap_come_back_as_the_same_patients_do_from_csv_and_png(maple: Path, tmp_path: Path) -> None:
    """Codes, ticked boxes, units, frames, regions and lossless compression leave no trace; callipers are kept, as in PNG."""
    protocol = read_protocol(Path(str(files("site_configs") / "demo" / "study.toml")))
    as_dicom, as_png = maple / "maple" / "kept.toml", synthesize(tmp_path, hospital="alder", patients=12, seed=3)
    text = (maple / "maple" / "site.toml").read_text(encoding="utf-8")
    as_dicom.write_text(text.replace('dicom = "dicom"', 'dicom = "dicom"\nburned_in = "keep"'), encoding="utf-8")
    one, other = (load_cohort(read_site(file), protocol, where=file).tensors for file in (as_dicom, as_png))
    for name in ("label", "categorical", "numeric_present", "slots", "images"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.numeric, other.numeric, rtol=0.0, atol=1e-5)
    truths = truth_of(maple, "maple"), truth_of(tmp_path, "alder")
    pd.testing.assert_frame_equal(*(truth.drop(columns="id") for truth in truths))


@pytest.mark.parametrize("hospital", ["birch", "cedar"])
def test_boxes_and_masks_are_of_the_stored_picture(hospital: str, tmp_path: Path) -> None:
    site = synthesize(tmp_path, hospital=hospital, patients=4, seed=2).parent
    if hospital == "cedar":
        table, folder = pd.read_excel(site / "registry.xlsx", sheet_name="Ultrasound"), site
    else:
        table, folder = (
            pd.read_csv(site / "export" / "Bilder.csv", sep=";", encoding="latin-1", dtype={0: str}),
            site / "export",
        )
    view_of = {how.code: view for view, how in EXPORTS[hospital].views.items()}
    for patient, file, code, *box in table.itertuples(index=False):
        with Image.open(folder / file) as picture:
            size = picture.size
        masks = np.load(tmp_path / "truth" / hospital / f"{patient}_{view_of[code]}.npz")
        assert masks["lesion"].shape == masks["gland"].shape == size[::-1]
        x0, y0, x1, y1 = box
        assert masks["lesion"][y0:y1, x0:x1].sum() == masks["lesion"].sum() > 0


@pytest.mark.parametrize("variable", ["braf", "tg", "calcitonin"])
def test_values_go_missing_not_at_random(variable: str) -> None:
    """At the same size, high values are missing less often than low ones; seen on the table of many patients."""
    patients = draw_patients(20_000, mix=CaseMix(), seed=3)
    gone = goes_missing(patients, variable, 0.4, np.random.default_rng(1))
    value = patients.variables[variable].to_numpy(dtype=float)
    high = value > np.median(value) if variable != "braf" else value > 0.5
    middling = patients.variables["tumour_size"].between(5.0, 9.0).to_numpy()
    assert gone[high & middling].mean() < gone[~high & middling].mean() - 0.05
    small = (patients.variables["tumour_size"] < 5.0).to_numpy()
    assert gone[small].mean() > gone[~small].mean() + 0.05


def test_contributions_add_up_to_the_risk() -> None:
    patients = draw_patients(500, mix=CaseMix(intercept=-2.0, vascularity_effect=0.7), seed=4)
    truth = truth_table(patients, [str(n) for n in range(500)], scanner="vesta_12")
    parts = truth.filter(like="contribution_")
    np.testing.assert_allclose(parts.sum(axis=1), truth["logit"])
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-truth["logit"])), truth["risk"])
    np.testing.assert_allclose(truth["contribution_vascularity"], 0.7 * truth["vascularity"])
    np.testing.assert_allclose(truth["table_logit"], truth["logit"] - 1.5 * truth["texture"] - 0.7 * truth["vascularity"])
    assert (truth["contribution_intercept"] == -2.0).all()


def test_tirads_counts_suspicious_features_and_shifts_between_hospitals() -> None:
    usual = draw_patients(20_000, mix=CaseMix(), seed=5).variables
    suspicious = (
        (usual["echogenicity"] != "isoechoic").astype(int)
        + (usual["margin"] == "irregular")
        + (usual["calcification"] == "micro")
        + usual["taller_than_wide"]
    )
    assert [TIRADS[count] for count in suspicious] == usual["tirads"].tolist()
    calm = draw_patients(20_000, mix=CaseMix(suspicion=-0.8), seed=5).variables
    assert (calm["tirads"] == "4A").mean() > 2.0 * (usual["tirads"] == "4A").mean()


def test_ceilings_are_the_aucs_of_what_could_be_known() -> None:
    patients = draw_patients(4000, mix=CaseMix(), seed=6)
    truth = truth_table(patients, [str(n) for n in range(4000)], scanner="vesta_12")
    known = ceilings(truth)
    assert known.prevalence == patients.label.mean()
    assert known.oracle_auc == pytest.approx(roc_auc_score(patients.label, patients.logit))
    assert known.table_auc == pytest.approx(roc_auc_score(patients.label, patients.logit - 1.5 * patients.texture))
    assert ceilings(truth[truth["label"]]).oracle_auc is None


def test_another_scanner_draws_the_same_patients(tmp_path: Path) -> None:
    first = synthesize(tmp_path, hospital="alder", patients=3, seed=1)
    table = (first.parent / "patients.csv").read_bytes()
    other = synthesize(tmp_path, hospital="alder", patients=3, seed=1, scanner="delphin_8")
    with Image.open(next((other.parent / "images").iterdir())) as picture:
        assert picture.size == (192, 192)
    assert (other.parent / "patients.csv").read_bytes() == table
    assert set(truth_of(tmp_path, "alder")["scanner"]) == {"delphin_8"}


def test_an_unknown_scanner_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="delphin_8"):
        synthesize(tmp_path, hospital="alder", patients=3, seed=1, scanner="stethoscope")


def test_the_command_tells_what_could_be_reached(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--hospital", "birch", "--patients", "20", "--seed", "1", "--scanner", "lyra_15"]
    told = CliRunner().invoke(app, ["synthesize", *arguments])
    known = ceilings(truth_of(tmp_path, "birch"))
    assert told.exit_code == 0
    assert f"20 patients, {known.prevalence:.1%} with metastasis" in told.stderr
    assert f"oracle AUC (true risk): {known.oracle_auc:.3f}" in told.stderr
    assert f"ceiling of tables alone: {known.table_auc:.3f}" in told.stderr
