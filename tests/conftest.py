"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

from shared_model.config_file import validate
from shared_model.protocol import StudyProtocol

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real data, also as ``${CONSILIUM_DATA}`` of site files; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CONSILIUM_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "heart_disease_4centres").is_dir():
        pytest.skip(f"no real data in {folder}: set CONSILIUM_DATA to its folder")
    monkeypatch.setenv("CONSILIUM_DATA", str(folder))
    return folder


@pytest.fixture
def tabular_protocol() -> StudyProtocol:
    """Two variables of one group, logistic regression, two rounds."""
    return validate(TABULAR, StudyProtocol, where="tabular_protocol")


@pytest.fixture
def multimodal_protocol() -> StudyProtocol:
    """Two tabular groups and two imaging modalities at 16 pixels, the smallest network, two rounds."""
    return validate(MULTIMODAL, StudyProtocol, where="multimodal_protocol")


TABULAR = {
    "study": {"name": "tabular", "title": "Tabular", "outcome": "event"},
    "variables": {
        "age": {"kind": "numeric", "unit": "years", "range": [0, 120]},
        "sex": {"kind": "categorical", "categories": ["female", "male"]},
    },
    "network": {"kind": "logistic"},
    "training": {"steps": 5, "batch_size": 4, "optimizer": "sgd", "lr": 0.01},
    "federation": {"rounds": 2},
}
MULTIMODAL = {
    "study": {"name": "multimodal", "title": "Multimodal", "outcome": "event"},
    "variables": {
        **TABULAR["variables"],
        "tsh": {"kind": "numeric", "unit": "mIU/L", "range": [0.01, 100], "log": True, "group": "serum"},
    },
    "images": {
        "size": 16,
        "views": {"bmode_transverse": {"modality": "bmode"}, "doppler": {"modality": "doppler"}},
    },
    "network": {
        "kind": "multimodal",
        "width": 8,
        "heads": 2,
        "image_grid": 1,
        "bidirectional_blocks": 1,
        "joint_blocks": 0,
    },
    "training": {"epochs": 1, "batch_size": 4},
    "federation": {"rounds": 2},
}
