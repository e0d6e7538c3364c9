"""Real exports, read as a hospital would map them. Counts are those of the data's own README."""

from pathlib import Path
from typing import Any

import pytest
import torch

from client.cohort import Cohort, load_cohort
from client.site_config import SiteConfig
from shared_model.config_file import validate
from shared_model.protocol import StudyProtocol

pytestmark = pytest.mark.data


def load(where: Path, site: dict[str, Any], study: dict[str, Any]) -> Cohort:
    study = {
        "study": {"name": "real", "title": "", "outcome": ""},
        "training": {"epochs": 1},
        "federation": {"rounds": 1},
    } | study
    config = validate({"site": {"name": "real"}} | site, SiteConfig, where="site.toml")
    return load_cohort(config, validate(study, StudyProtocol, where="study.toml"), where=where / "site.toml")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "patients", "positives"),
    [
        ("Iran (Hamadan), UCI 915", 383, 93),
        ("TCGA other sites (pooled)", 103, 25),
        ("Memorial Sloan Kettering", 93, 15),
        ("University Health Network", 62, 17),
        ("Johns Hopkins", 47, 5),
        ("University of Pittsburgh", 47, 4),
        ("MD Anderson", 39, 3),
    ],
)
def test_seven_institutions_of_one_table(real_data, name, patients, positives):
    cohort = {
        "table": "llnm_clinical.csv",
        "where": {"fl_site": name},
        "patient_id": "patient_id",
        "label": {"column": "llnm", "positive": [1], "negative": [0]},
        "variables": {"size": {"column": "tumor_max_dim_cm", "unit": "cm"}, "sex": {"column": "sex"}},
    }
    variables = {
        "size": {"kind": "numeric", "unit": "mm", "range": [0.1, 200]},
        "sex": {"kind": "categorical", "categories": ["F", "M"]},
    }
    study = {"variables": variables, "network": {"kind": "clinical_only"}}
    loaded = load(real_data / "llnm_clinical", {"cohort": cohort}, study)
    assert (len(loaded), int(loaded.tensors.label.sum())) == (patients, positives)
    assert loaded.tensors.numeric_present.any().item() == (not name.startswith("Iran"))
    for index in loaded.parts.values():
        assert loaded.tensors.label[index].sum() >= 1


def test_a_scanner_with_two_views_masks_and_several_rows_a_patient(real_data):
    images = {
        "table": "bus_data.csv",
        "patient_id": "Case",
        "file": "Images/{ID}.png",
        "mask": "Masks/mask_{ID[4:]}.png",
        "view": {"column": "Side", "codes": {"left": "left", "right": "right", "single": "single"}},
    }
    cohort = {
        "table": "bus_data.csv",
        "where": {"Device": "Toshiba Aplio 300 @12-14 MHz"},
        "patient_id": "Case",
        "label": {"column": "Pathology", "positive": ["malignant"], "negative": ["benign"]},
        "variables": {"birads": {"column": "BIRADS", "combine": "max"}},
    }
    study = {
        "variables": {"birads": {"kind": "categorical", "categories": ["2", "3", "4", "5"]}},
        "images": {"views": {"left": {}, "right": {}, "single": {}}, "size": 64, "crop": "lesion", "lesion_mask": True},
    }
    loaded = load(real_data / "busbra_256", {"cohort": cohort, "images": images}, study)
    assert len(loaded) == 72
    assert loaded.tensors.images.shape == (139, 2, 64, 64)
    assert loaded.findings.images.unusable == ()
    shares = loaded.tensors.images[:, 1].float().mean(dim=(1, 2)) / 255
    assert ((shares > 0.05) & (shares < 0.7)).all()  # a lesion with a margin of a quarter fills part of its crop


def test_thyroid_pictures_with_boxes_of_which_some_are_empty(real_data):
    cohort = {
        "table": "index.csv",
        "patient_id": "case",
        "where": {"case": {"max": 150}},
        "label": {"column": "tirads", "positive": ["4b", "4c", "5"], "negative": [2, 3, "4a"]},
        "variables": {"sex": {"column": "sex", "codes": {"F": "female", "M": "male"}}},
    }
    images = {
        "table": "index.csv",
        "patient_id": "case",
        "file": "image",
        "roi": ["x0", "y0", "x1", "y1"],
        "view": {"all": "bmode"},
    }
    study = {
        "variables": {"sex": {"kind": "categorical", "categories": ["female", "male"]}},
        "images": {"views": {"bmode": {}}, "size": 48, "crop": "lesion"},
    }
    loaded = load(real_data / "ddti", {"cohort": cohort, "images": images}, study)
    assert {file.reason for file in loaded.findings.images.unusable} == {"no lesion box"}
    assert loaded.findings.variables["sex"].unmapped.keys() == {"u"}
    assert torch.equal(torch.cat(list(loaded.parts.values())).sort().values, torch.arange(len(loaded)))


HEART = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]


@pytest.mark.parametrize(
    ("center", "patients", "positives"), [("cleveland", 303, 139), ("hungarian", 294, 106), ("va", 200, 149)]
)
def test_a_file_without_header_or_identifiers(real_data, center, patients, positives):
    cohort = {
        "table": f"processed.{center}.data",
        "columns": HEART,
        "missing": ["?"],
        "patient_id": "#row",
        "label": {"column": "num", "positive": [1, 2, 3, 4], "negative": [0]},
        "variables": {"age": {"column": "age", "unit": "years"}, "thal": {"column": "thal"}},
    }
    variables = {
        "age": {"kind": "numeric", "unit": "years", "range": [0, 110]},
        "thal": {"kind": "categorical", "categories": ["3", "6", "7"]},
    }
    loaded = load(
        real_data / "heart_disease_4centres", {"cohort": cohort}, {"variables": variables, "network": {"kind": "logistic"}}
    )
    assert (len(loaded), int(loaded.tensors.label.sum())) == (patients, positives)
    assert loaded.tensors.numeric_present.all()


def test_semicolons_are_found(real_data):
    cohort = {
        "table": "Thyroid_Diff.csv",
        "patient_id": "#row",
        "label": {"column": "N", "positive": ["N1b"], "negative": ["N0", "N1a"]},
        "variables": {"age": {"column": "Age", "unit": "years"}},
    }
    study = {"variables": {"age": {"kind": "numeric", "unit": "years"}}, "network": {"kind": "logistic"}}
    loaded = load(real_data / "uci_dtc_recurrence", {"cohort": cohort}, study)
    assert (len(loaded), int(loaded.tensors.label.sum())) == (383, 93)
