"""The bill of materials of each image (CycloneDX 1.6, JSON): ``python docker/materials.py OUT`` or ``make sbom``.

What an image installs follows from its requirements, the exact versions in ``.ci/constraints.txt``, and what each package says
that it needs; so that the bill is made without an engine, in an environment in which those versions are installed. With
the wheels of ``wheelhouse.sh`` there, it has their hashes too. ``tests/federation/test_images.py`` compares it with what the
steps of a Dockerfile have really installed. The packages of Debian below Python are those of the base image, which is named.
"""

import hashlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distribution
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

TOP = Path(__file__).resolve().parents[1]
WHEELHOUSE = TOP / "wheelhouse"
IMAGES = ("relay", "worker", "center")
_UNTOLD = {"cuda-toolkit": "NVIDIA Proprietary Software"}  # packages whose metadata name no licence
_CLASSIFIER = "License :: "


@dataclass
class Bill:
    """Packages by canonical name, and what each needs directly."""

    packages: dict[str, Distribution] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)

    def add(self, requirements: Iterable[Requirement], *, to: str) -> None:
        """Add what ``requirements`` of the package ``to`` bring, and what that needs in turn.

        Raises:
            PackageNotFoundError: a package is not installed here.
        """
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            self.needs.setdefault(to, set()).add(name)
            fresh = {*requirement.extras, ""} if name not in self.packages else requirement.extras
            self.packages.setdefault(name, distribution(name))
            self.needs.setdefault(name, set())
            if fresh:
                wanted = [Requirement(text) for text in self.packages[name].requires or ()]
                self.add([one for one in wanted if _applies(one, fresh) and not self._has(name, one)], to=name)

    def _has(self, name: str, requirement: Requirement) -> bool:
        return not requirement.extras and canonicalize_name(requirement.name) in self.needs[name]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def bill_of(image: str) -> Bill:
    """What ``install.sh`` installs into ``image``."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"]
    if image == "relay":
        text = (TOP / "docker" / "relay-requirements.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    bill = Bill()
    bill.add(map(Requirement, lines), to="consilium")
    return bill


def pinned() -> dict[str, str]:
    """Exact version by canonical name."""
    lines = (TOP / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def document(image: str) -> str:
    """The bill of materials of ``image``, as JSON.

    Raises:
        SystemExit: this environment has other versions than those pinned, or lacks a licence.
    """
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bill, versions, hashes = bill_of(image), pinned(), dict(_wheels())
    faults = [
        f"{name} is {package.version} here, {versions.get(name, 'not pinned')} in .ci/constraints.txt"
        for name, package in sorted(bill.packages.items())
        if versions.get(name) != package.version
    ]
    faults += [f"{name} tells no licence" for name, package in sorted(bill.packages.items()) if not licence_of(package)]
    if faults:
        sys.exit("\n".join([f"{image}: no bill of materials", *faults]))
    components = {name: _component(name, package, hashes.get(name)) for name, package in bill.packages.items()}
    factory = LicenseFactory()
    whole = Component(
        name=f"consilium-{image}",
        version=project["version"],
        type=ComponentType.CONTAINER,
        bom_ref="consilium",
        licenses=[factory.make_from_string(project["license"])],
        properties=[Property(name="consilium:base-image", value=base_of(image))],
    )
    bom = Bom(components=components.values())
    bom.metadata.component = whole
    bom.register_dependency(whole, [components[name] for name in sorted(bill.needs["consilium"])])
    for name, component in components.items():
        bom.register_dependency(component, [components[need] for need in sorted(bill.needs[name])])
    told = ", ".join(f"{name}=={package.version}" for name, package in sorted(bill.packages.items()))
    bom.serial_number = uuid5(NAMESPACE_URL, f"{whole.name} {told}")
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(name: str, package: Distribution, sha256: str | None) -> Component:
    factory = LicenseFactory()
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}=={package.version}",
        purl=PackageURL("pypi", name=name, version=package.version),
        description=package.metadata.get("Summary"),
        licenses=[factory.make_from_string(licence_of(package))],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
    )


def licence_of(package: Distribution) -> str:
    """The licence as the package names it: its SPDX expression, or else its classifiers, or the first words of its text."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith(_CLASSIFIER)]
    if named := [name for name in classifiers if name not in {"OSI Approved", "DFSG approved"}]:
        return ", ".join(named)
    lines = [line.strip() for line in str(told.get("License") or "").splitlines() if line.strip(" =")]
    first = lines[0] if lines and lines[0] != "UNKNOWN" else ""
    return first or _UNTOLD.get(canonicalize_name(told["Name"]), "")


def base_of(image: str) -> str:
    """What the image's Dockerfile starts from."""
    file = TOP / "docker" / ("center.Dockerfile" if image == "center" else "site.Dockerfile")
    found = re.search(r"(?m)^FROM (\S+)", file.read_text(encoding="utf-8"))
    assert found
    return found.group(1)


def _wheels() -> Iterator[tuple[str, str]]:
    """SHA-256 of the wheels in the wheelhouse by canonical name."""
    for path in sorted(WHEELHOUSE.glob("*.whl")):
        yield parse_wheel_filename(path.name)[0], hashlib.sha256(path.read_bytes()).hexdigest()


def main(out: Path) -> None:
    """Write one file an image into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        path = out / f"{image}.cdx.json"
        path.write_text(document(image) + "\n", encoding="utf-8")
        print(f"{path}: {len(bill_of(image).packages)} packages")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
