"""A small hospital on disk: twelve patients, two views each, and the configuration that maps them."""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image

from client.cohort import Cohort, load_cohort
from client.site_config import SiteConfig
from shared_model import config_file
from shared_model.protocol import StudyProtocol

SITE: dict[str, Any] = {
    "site": {"name": "alpha"},
    "cohort": {
        "table": "patients.csv",
        "patient_id": "id",
        "label": {"column": "llnm", "positive": [1], "negative": [0]},
        "variables": {
            "age": {"column": "age", "unit": "years"},
            "size": {"column": "size_cm", "unit": "cm"},
            "sex": {"column": "sex", "codes": {"F": "female", "M": "male"}},
        },
    },
    "images": {
        "table": "images.csv",
        "patient_id": "patient",
        "file": "file",
        "view": {"column": "view", "codes": {"T": "transverse", "L": "longitudinal"}},
    },
}
STUDY: dict[str, Any] = {
    "study": {"name": "toy", "title": "Toy", "outcome": "1 is positive"},
    "variables": {
        "age": {"kind": "numeric", "unit": "years", "range": [0, 110]},
        "size": {"kind": "numeric", "unit": "mm", "range": [1, 100], "log": True},
        "sex": {"kind": "categorical", "categories": ["female", "male"]},
    },
    "images": {"views": {"transverse": {}, "longitudinal": {}}, "size": 16, "per_patient": 2},
    "training": {"epochs": 1},
    "federation": {"rounds": 1},
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` written over it; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@dataclass
class Hospital:
    folder: Path

    @property
    def where(self) -> Path:
        return self.folder / "site.toml"

    def write(self, name: str, rows: list[dict[str, Any]], *, separator: str = ",") -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
        return path

    def picture(self, name: str, levels: np.ndarray) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(path)
        return path

    def config(self, changes: Mapping[str, Any] | None = None) -> SiteConfig:
        return config_file.validate(merged(SITE, changes or {}), SiteConfig, where=str(self.where))

    def protocol(self, changes: Mapping[str, Any] | None = None) -> StudyProtocol:
        return config_file.validate(merged(STUDY, changes or {}), StudyProtocol, where="study.toml")

    def load(self, site: Mapping[str, Any] | None = None, study: Mapping[str, Any] | None = None) -> Cohort:
        return load_cohort(self.config(site), self.protocol(study), where=self.where)

    def save(self, site: Mapping[str, Any] | None = None, study: Mapping[str, Any] | None = None) -> tuple[Path, Path]:
        """Write both files, for commands."""
        study_path = self.folder / "study.toml"
        self.where.write_text(tomli_w.dumps(merged(SITE, site or {})), encoding="utf-8")
        study_path.write_text(tomli_w.dumps(merged(STUDY, study or {})), encoding="utf-8")
        return self.where, study_path


def patient_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{k:02}",
            "age": 30 + k,
            "size_cm": f"{1 + k / 10:.1f}",
            "sex": "FM"[k % 2],
            "llnm": int(k % 3 == 0),
            "part": "ab"[k % 2],
        }
        for k in range(count)
    ]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return patient_rows()


@pytest.fixture
def hospital(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Hospital:
    """Each picture of patient k is flat grey: level 10 * k, plus 5 in the longitudinal view."""
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "cache"))
    site = Hospital(tmp_path)
    site.write("patients.csv", rows)
    images = []
    for k, row in enumerate(rows):
        for view, extra in (("L", 5), ("T", 0)):
            name = f"img/{row['id']}_{view}.png"
            site.picture(name, np.full((20, 30), 10 * k + extra, dtype=np.uint8))
            images.append({"patient": row["id"], "file": name, "view": view, "x0": 5, "y0": 5, "x1": 15, "y1": 10})
    site.write("images.csv", images)
    return site


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set CONSILIUM_DATA")
    return folder
