"""The project itself: what the README documents, what an installation pins, what the Makefile runs."""

import hashlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from client.site_config import SiteConfig
from client.synthetic import HOSPITALS
from shared_model.protocol import StudyProtocol

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
PINNED = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
}


@pytest.mark.parametrize("requirement", REQUIRED)
def test_constraints_pin_every_requirement_within_its_bounds(requirement: str) -> None:
    required = Requirement(requirement)
    assert Version(PINNED[canonicalize_name(required.name)]) in required.specifier


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[0-9][0-9a-z.+]*", line) for line in lines)
    assert len(lines) == len(PINNED)


def test_licence_is_the_unchanged_apache_text() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_top_level_holds_what_belongs_there() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    folders = {"server", "client", "shared_model", "site_configs", "tests", "docker", ".ci"}
    assert {name for name in top if not name.startswith(".")} - folders <= {
        "pyproject.toml",
        "README.md",
        "Makefile",
        "LICENSE",
    }


CONTACT_SHEET = "site_configs/demo/contact_sheet.png"  # synthetic pictures, shown in the README


def test_no_data_and_no_weights_are_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    suffixes = {Path(line).suffix for line in tracked.stdout.splitlines() if line != CONTACT_SHEET}
    assert (ROOT / CONTACT_SHEET).stat().st_size < 300_000
    assert not suffixes & {".csv", ".parquet", ".xlsx", ".png", ".jpg", ".tif", ".dcm", ".data", ".safetensors", ".pt", ".npz"}


def make(*arguments: str) -> str:
    """What make would run, without running it."""
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    # The tests may themselves run under make, whose variables reach its children.
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "NO_INSTALL", "VENV", "PYTHON"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("demo", "bin/consilium-center demo"),
        ("test", 'bin/python -m pytest --numprocesses auto -m "not benchmark and not slow"'),
        ("slow", 'bin/python -m pytest --numprocesses auto -m "slow and not faults"'),
        ("check", "bin/lint-imports"),
        ("bench", "bin/python -m pytest -m benchmark"),
        ("faults", "bin/python -m pytest -m faults"),
        ("attacks", "bin/python -m pytest -m attacks"),
    ],
)
def test_make_installs_first_then_runs(target: str, runs: str, tmp_path: Path) -> None:
    fresh = make(target, f"VENV={tmp_path / 'env'}")
    assert fresh.index("-m venv") < fresh.index("pip install --quiet -c .ci/constraints.txt") < fresh.index(runs)
    prepared = make(target, f"VENV={tmp_path / 'env'}", "NO_INSTALL=1")
    assert "pip install" not in prepared
    assert f"{tmp_path / 'env'}/{runs}" in prepared


def test_make_clean_spares_an_environment_of_ones_own(tmp_path: Path) -> None:
    assert str(tmp_path) not in make("clean", f"VENV={tmp_path}")


@pytest.mark.parametrize("name", ["study", *HOSPITALS])
def test_the_demo_files_are_found_as_package_data(name: str) -> None:
    assert (files("site_configs") / "demo" / f"{name}.toml").is_file()


def keys(model: type[BaseModel], *, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of a configuration file; records by name count as ``<name>``."""
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        inner = list(_inner_keys(field.annotation, prefix=f"{prefix}{name}."))
        yield from inner or [(f"{prefix}{name}", field)]


def _inner_keys(annotation: Any, *, prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    if get_origin(annotation) is Annotated:
        yield from _inner_keys(get_args(annotation)[0], prefix=prefix)
    elif get_origin(annotation) is dict:
        yield from _inner_keys(get_args(annotation)[1], prefix=f"{prefix}<name>.")
    elif get_origin(annotation) in {Union, UnionType}:
        for member in get_args(annotation):
            yield from _inner_keys(member, prefix=prefix)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from keys(annotation, prefix=prefix)


def documented(heading: str) -> dict[str, str]:
    """Each key in the README's table below ``heading`` with its default as written there."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    defaults = {}
    for names, default in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", section, flags=re.M):
        row = re.findall(r"`([^`]+)`", names)
        own = default.split(", ") if len(row) > 1 and default.count("`, `") == len(row) - 1 else [default] * len(row)
        defaults |= dict(zip(row, own, strict=True))
    return defaults


def as_written(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return f"`{_toml(default)}`"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("heading", "model"), [("Writing a study", StudyProtocol), ("Mapping a hospital's export", SiteConfig)]
)
def test_the_readme_documents_every_key_with_its_default(heading: str, model: type[BaseModel]) -> None:
    expected = {key: as_written(field) for key, field in keys(model)}
    written = documented(heading)
    filters = {"cohort.where.<name>", "images.where.<name>"}  # a value, a list, or a record with the two keys below
    assert {key: default for key, default in written.items() if key not in filters} == expected
