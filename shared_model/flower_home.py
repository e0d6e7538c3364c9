"""What Flower's own commands find on this machine: a quiet environment, and a home with the thin app in it.

Flower ships an app's code from the center to the sites and runs it there. Ours is *thin*: the description below, and no
module. The code is that of the installed package, and where the app is in ``$FLWR_HOME`` already and nothing can be written
there, the code of any other app is not even unpacked.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w

from shared_model.errors import ConfigurationError, Fault, StudyError

VERSION = "1.41.0"  # of flwr
APPS = "apps"
COMMAND_TIMEOUT_S = 120.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}
_VERSION = "0.1.0"  # of the app: part of its identity, so that a new release is a new app to install
_APP: dict[str, Any] = {
    "project": {"name": "consilium", "version": _VERSION, "description": "Consilium", "license": "Apache-2.0"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "consilium",
                "fab-include": ["README.md"],
                "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
                "config": {"run-directory": "", "outcome": "", "sites": "", "nodes": ""},
            }
        }
    },
}


def environment(home: Path) -> dict[str, str]:
    """That of this process, with Flower's commands in reach, its calls home off, and this very code importable. Flower's
    processes talk to each other on loopback, whatever proxy leads out.

    Raises:
        ConfigurationError: Flower's commands are not installed.
    """
    scripts = sysconfig.get_path("scripts")
    if shutil.which("flower-superlink", path=scripts) is None:
        remedy = f"pip install flwr=={VERSION}"
        raise ConfigurationError([Fault("installation", "", f"no flower-superlink in {scripts}", "Flower's commands", remedy)])
    around = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    inherited = {**os.environ, **QUIET, "FLWR_HOME": str(home), "NO_PROXY": around, "no_proxy": around}
    inherited["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    source = Path(__file__).resolve().parents[1]
    if (source / "pyproject.toml").exists():  # a source tree, which need not be installed
        paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        inherited["PYTHONPATH"] = os.pathsep.join([*paths, str(source)])
    return inherited


def write_app(folder: Path) -> None:
    """Write the thin app to the new ``folder``."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(tomli_w.dumps(_APP), encoding="utf-8")
    (folder / "README.md").write_text("Consilium. The code is that of the installed package.\n", encoding="utf-8")


@cache
def app_sha256() -> str:
    """SHA-256 of the thin app as Flower bundles it. Two installations that agree run the same app."""
    with tempfile.TemporaryDirectory(prefix="consilium-") as scratch:
        return hashlib.sha256(_build(Path(scratch)).read_bytes()).hexdigest()


def is_installed(home: Path, *, sha256: str) -> bool:
    """Whether the thin app of that hash lies in ``home``."""
    return (home / APPS / f"consilium.consilium.{_VERSION}.{sha256[:8]}" / "pyproject.toml").is_file()


def install_app(home: Path) -> str:
    """Put the thin app into ``home``, unless it is there already; returns its SHA-256.

    Raises:
        StudyError: Flower would not install it.
    """
    home = home.resolve()
    with tempfile.TemporaryDirectory(prefix="consilium-") as scratch:
        bundle = _build(Path(scratch))
        home.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        if not is_installed(home, sha256=digest):
            for path in (home, home / APPS):  # of an earlier release, locked
                path.mkdir(exist_ok=True)
                path.chmod(0o755)
            flwr("install", str(bundle), folder=Path(scratch), environment=environment(home))
        if not is_installed(home, sha256=digest):
            raise StudyError(f"flwr install did not put the app into {home}")
        return digest


def lock_app(home: Path) -> list[str]:
    """Make ``home`` unwritable. Returns what to put before a command so that it finds it so: nothing, unless run as root.

    Raises:
        ConfigurationError: it stays writable, so that code from the center could be unpacked and run there.
    """
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for prefix in ([], [sys.executable, "-I", "-S", str(Path(__file__).with_name("readonly.py")), str(home)]):
        if refuses_writes(home, prefix):
            return prefix
    remedy = "run this as an ordinary user, or mount that folder read-only"
    raise ConfigurationError([Fault("FLWR_HOME", "", f"{home} can be written to", "a read-only folder", remedy)])


def refuses_writes(home: Path, prefix: Sequence[str]) -> bool:
    """Whether a command behind ``prefix`` runs, and can create nothing in ``home``."""
    attempt = ["import os, sys", "try: os.mkdir(sys.argv[1])", "except OSError: sys.exit(7)", "os.rmdir(sys.argv[1])"]
    probe = [*prefix, sys.executable, "-I", "-S", "-c", "\n".join(attempt), str(home / APPS / ".probe")]
    return subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 7


def flwr(*arguments: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command of Flower's; returns what it printed.

    Raises:
        StudyError: it failed, or took longer than ``COMMAND_TIMEOUT_S``.
    """
    result = _run(arguments, folder, environment)
    if result.returncode:
        raise StudyError(f"flwr {arguments[0]} failed: {(result.stdout + result.stderr).strip()[-2000:]}")
    return result.stdout


def flwr_json(*arguments: str, folder: Path, environment: Mapping[str, str]) -> Any:
    """Run a command of Flower's that answers in JSON; returns that.

    Raises:
        StudyError: it failed, with its own words; or took longer than ``COMMAND_TIMEOUT_S``.
    """
    result = _run((*arguments, "--format", "json"), folder, environment)
    try:
        document = json.loads(result.stdout)
    except ValueError:
        document = {"error-message": result.stdout + result.stderr}
    if not document.get("success"):
        raise StudyError(f"flwr {arguments[0]} failed: {document.get('error-message')}")
    return document


def _run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["flwr", *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StudyError(f"flwr {arguments[0]} did not end within {COMMAND_TIMEOUT_S:.0f} s") from None


def _build(scratch: Path) -> Path:
    write_app(scratch / "app")
    flwr("build", "--app", "app", folder=scratch, environment=environment(scratch / "home"))
    [bundle] = scratch.glob("*.fab")
    return bundle
