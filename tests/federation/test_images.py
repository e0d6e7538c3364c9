"""The steps of an image carried out without an engine, in a folder with a fresh Debian; then what is in it is used."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.dockerfiles import carry_copies, carry_out, lineage, materials, read_dockerfile, run_in

ROOT = Path(__file__).parents[2]
USER = "10001:10001"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root, and debootstrap"),
]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The relay's image as a folder, and its environment."""
    root = tmp_path_factory.mktemp("relay")
    packages = "python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), mirror()]
    subprocess.run(command, check=True, capture_output=True)
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(file, root / file.lstrip("/"))
    root.chmod(0o755)  # the root of a file system, which everybody may enter
    # The official image has its Python in /usr/local.
    run_in(root, ["python3", "-m", "venv", "/usr/local"], {"PATH": "/usr/bin:/bin"})
    stages = lineage(read_dockerfile(ROOT / "docker" / "site.Dockerfile"), "relay")
    yield root, carry_out(stages, context=ROOT, root=root)
    shutil.rmtree(root)


def mirror() -> str:
    """Where this machine gets its Debian packages from."""
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    found = re.search(
        r"^(?:URIs: |deb (?:\[.*\] )?)(\S+/debian/?)(?: |$)", "\n".join(path.read_text() for path in sources), flags=re.M
    )
    assert found
    return found.group(1)


def test_the_relay_starts_as_its_user_without_torch(relay: tuple[Path, dict[str, str]]) -> None:
    root, environment = relay
    assert "join" in run_in(root, ["consilium-site", "--help"], environment, user=USER)
    packages = {item["metadata"]["name"] for item in json.loads(run_in(root, ["pip", "inspect"], environment))["installed"]}
    assert {"flwr", "consilium"} <= packages
    assert not {"torch", "pandas", "pydicom", "opacus"} & packages
    imported = (
        "import sys, client.app, client.joining; print([m for m in ('torch', 'pandas', 'client.cohort') if m in sys.modules])"
    )
    assert run_in(root, ["python", "-c", imported], environment, user=USER).strip() == "[]"


def test_the_bill_of_materials_names_just_what_is_installed(relay: tuple[Path, dict[str, str]]) -> None:
    root, environment = relay
    items = [item["metadata"] for item in json.loads(run_in(root, ["pip", "inspect"], environment))["installed"]]
    installed = {canonicalize_name(item["name"]): item["version"] for item in items}
    bill = {name: package.version for name, package in materials().bill_of("relay").packages.items()}
    assert bill == {name: version for name, version in installed.items() if name not in {"pip", "setuptools", "consilium"}}


def test_sources_are_gone_and_programs_cannot_be_changed_by_their_user(relay: tuple[Path, dict[str, str]]) -> None:
    root, environment = relay
    assert not [name for name in ("source", "needs") if (root / name).exists()]
    search = "find /usr /opt /etc -xdev -writable -not -type l -print , -type d -not -readable -prune"
    writable = run_in(root, search.split(), environment, user=USER)
    assert writable == ""


def test_a_hospital_makes_its_keys_in_the_relay(relay: tuple[Path, dict[str, str]]) -> None:
    root, environment = relay
    site = root / "tmp" / "site.toml"
    label = 'label = { column = "y", positive = [1], negative = [0] }'
    site.write_text(f'[site]\nname = "birch"\n[cohort]\ntable = "t.csv"\npatient_id = "id"\n{label}\n')
    (root / "tmp").chmod(0o1777)
    run_in(root, ["sh", "-c", "cd /tmp && consilium-site enrol /tmp/site.toml"], environment, user=USER)
    key = root / "var/lib/consilium/node.key"
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (10001, 0o600)


def test_the_relay_installs_without_a_network_from_its_wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docker", ".ci", "server", "client", "shared_model", "site_configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    do(["docker/wheelhouse.sh", "relay"], tmp_path)
    wheels = tmp_path / "wheelhouse"
    do(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], wheels)
    carry_copies(
        lineage(read_dockerfile(ROOT / "docker" / "site.Dockerfile"), "relay"), context=tmp_path, root=tmp_path / "image"
    )
    do([sys.executable, "-m", "venv", str(tmp_path / "venv")], tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "venv" / "bin"), os.environ["PATH"]]))
    monkeypatch.setenv("SOURCE", str(tmp_path / "image" / "source"))
    for part in ("relay", "release"):
        do(["unshare", "--net", "./install.sh", part], tmp_path / "image" / "needs")
    assert "join" in do(["consilium-site", "--help"], tmp_path)
    monkeypatch.setattr(materials(), "WHEELHOUSE", wheels)
    assert all(component["hashes"] for component in json.loads(materials().document("relay"))["components"])


def do(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
