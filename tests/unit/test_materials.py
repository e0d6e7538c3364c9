"""Bills of materials of the images: complete, of the pinned versions, each with a licence, and valid CycloneDX."""

import json
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import cyclonedx.schema
import pytest
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from referencing import Registry, Resource

from tests.dockerfiles import materials

ROOT = Path(__file__).parents[2]
IMAGES = ("relay", "worker", "center")


@cache
def bill(image: str) -> dict[str, Any]:
    try:
        return dict(json.loads(materials().document(image)))
    except SystemExit as told:
        pytest.fail(str(told))


def components(image: str) -> dict[str, dict[str, Any]]:
    return {component["name"]: component for component in bill(image)["components"]}


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_has_its_pinned_version_and_a_licence(image: str) -> None:
    pinned = materials().pinned()
    for name, component in components(image).items():
        assert component["version"] == pinned[name]
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        [licence] = component["licenses"]
        told = licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
        assert told.strip()
        assert told != "UNKNOWN"


def test_every_pinned_package_is_in_an_image_or_of_an_extra_alone() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(line) for lines in extras.values() for line in lines]
    if missing := [one.name for one in wanted if not _is_installed(one)]:
        pytest.skip(f"what they pull in is known where they are installed only: {', '.join(missing)}")
    other = materials().Bill()
    other.add(wanted, to="extras")
    left_out = set(materials().pinned()) - set(components("worker")) - set(components("relay"))
    assert left_out <= set(other.packages), left_out - set(other.packages)


def _is_installed(requirement: Requirement) -> bool:
    try:
        return bool(distribution(canonicalize_name(requirement.name)))
    except PackageNotFoundError:
        return False


def test_the_relay_has_no_torch_and_the_others_have() -> None:
    assert not {"torch", "pandas", "pydicom", "opacus", "scipy"} & components("relay").keys()
    assert {"torch", "pandas", "pydicom", "opacus", "scipy", "flwr"} <= components("worker").keys()
    assert {"flwr", "grpcio", "httpx", "sqlalchemy"} <= components("relay").keys()


@pytest.mark.parametrize("image", IMAGES)
def test_the_schema_of_cyclonedx_accepts_it(image: str) -> None:
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    texts = {path.name: json.loads(path.read_text()) for path in folder.glob("*.SNAPSHOT.schema.json")}
    base = "http://cyclonedx.org/schema/"
    registry: Registry[Any] = Registry().with_resources(
        (f"{base}{name}", Resource.from_contents(text)) for name, text in texts.items() if "bom-" not in name
    )
    schema = texts["bom-1.6.SNAPSHOT.schema.json"]
    validator = Draft7Validator(schema, registry=registry)
    assert [error.message for error in validator.iter_errors(bill(image))] == []
    assert [*validator.iter_errors(bill(image) | {"components": [{"name": "x"}]})]


@pytest.mark.parametrize("image", IMAGES)
def test_everything_is_reached_from_the_image(image: str) -> None:
    edges = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in bill(image)["dependencies"]}
    reached, fresh = {"consilium"}, {"consilium"}
    while fresh:
        fresh = {need for name in fresh for need in edges[name]} - reached
        reached |= fresh
    assert reached == {"consilium"} | {component["bom-ref"] for component in bill(image)["components"]}


def test_another_version_than_the_pinned_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = {**materials().pinned(), "numpy": "1.0"}
    monkeypatch.setattr(materials(), "pinned", lambda: pinned)
    with pytest.raises(SystemExit, match=r"numpy is \S+ here, 1\.0 in"):
        materials().document("relay")


def test_hashes_are_those_of_the_wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy-2.2-py3-none-any.whl").write_bytes(b"abc")
    monkeypatch.setattr(materials(), "WHEELHOUSE", tmp_path)
    found = {c["name"]: c for c in json.loads(materials().document("relay"))["components"]}
    assert found["numpy"]["hashes"] == [
        {"alg": "SHA-256", "content": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    ]
