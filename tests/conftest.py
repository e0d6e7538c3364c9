"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("consilium", deadline=None)
settings.load_profile("consilium")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CONSILIUM_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "heart_disease_4centres").is_dir():
        pytest.skip(f"no real data in {folder}: set CONSILIUM_DATA to its folder")
    return folder


@pytest.fixture
def data_folder(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real data, also as ``${CONSILIUM_DATA}`` of site files."""
    monkeypatch.setenv("CONSILIUM_DATA", str(real_data))
    return real_data
