"""``consilium-site doctor``: everything between this hospital's worker and the center, each with what is wrong and how to
mend it. Needs neither torch nor patients, so that it also runs where the relay runs."""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from client import connection
from client.checks import Check, Problem, check_of, skipped
from client.connection import Center
from client.enrolment import Home
from client.joining import LOCK, ONLINE, still_online_s
from client.worker_check import worker_check
from shared_model import flower_home
from shared_model.certificates import fingerprint, spoken
from shared_model.enrolment import Kit
from shared_model.errors import ConfigurationError
from shared_model.locking import is_held

DISK_WANTED = 2 * 2**30  # the relay holds a model or two while it passes on, and its logs


def doctor_checks(home: Home, kit: Kit, *, site: str | None, worker: Path | None) -> Iterator[Check]:
    """All checks in the order of the way: keys, network, center, worker, machine. ``site`` is the name in site.toml."""
    yield _keys(home, kit, site)
    reached = True
    for check in connection.connection_checks(Center(kit.host, kit.port, home.root_certificate)):
        reached = reached and check.status in {"pass", "warn"}
        yield check
    yield _authentication(home, kit) if reached else skipped("auth", _AUTH, "the center was not reached")
    yield worker_check(worker, site=kit.site)
    yield _code(home, kit)
    yield _disk(home)
    yield _gpu()


_AUTH, _HOME, _DISK = "Key of this site", "Flower's home", "Disk"


def _keys(home: Home, kit: Kit, site: str | None) -> Check:
    title = "Keys and kit"
    open_files = [path.name for path in (home.node_key, home.identity_key) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    warnings = (
        [Problem(f"{', '.join(open_files)} can be read by others", f"chmod 600 {home.folder}/*.key")] if open_files else []
    )
    failures = []
    if site is not None and site != kit.site:
        what = f"the kit is for site {kit.site}, and site.toml says {site}"
        failures.append(Problem(what, "correct site.name, or use the kit for this site"))
    if home.next_node_key.exists():
        what = "a new key waits for the center's approval"
        warnings.append(Problem(what, "send the request to the center, and put its new kit in the old one's place"))
    found = f"site {kit.site} of {kit.federation}; center {spoken(fingerprint(kit.authority))}"
    return check_of("keys", title, found, warnings=warnings, failures=failures)


def _authentication(home: Home, kit: Kit) -> Check:
    if is_held(home.folder / LOCK) and _connected(home):
        return check_of("auth", _AUTH, "accepted: consilium-site join is connected")
    from client.fleet import ask_center

    verdict, words = ask_center(kit.address, authorities=home.root_certificate, key_file=home.node_key)
    if verdict == "accepted":
        return check_of("auth", _AUTH, "accepted")
    if verdict == "unknown" and (wait := still_online_s(home.folder)) > 0:
        what = "the last connection ended without a goodbye, and the center still counts this site as online"
        return check_of("auth", _AUTH, words, warnings=[Problem(what, f"join again in {wait:.0f} s; join waits by itself")])
    if verdict == "unavailable":
        problem = Problem("the center is up, but does not answer properly", "ask the center whether it is starting; try again")
        return check_of("auth", _AUTH, words, failures=[problem])
    remedy = "ask the center to approve the request; if it has revoked the key: consilium-site enrol --renew; "
    remedy += "if consilium-site join runs elsewhere with a copy of these keys, end it there"
    if verdict == "unauthenticated":
        remedy = "set the clock; if it is right, something in between changes requests: let this address through untouched"
        return check_of("auth", _AUTH, words, failures=[Problem("the center could not verify this site's signature", remedy)])
    return check_of("auth", _AUTH, words, failures=[Problem("the key is not approved yet, or was revoked", remedy)])


def _connected(home: Home) -> bool:
    try:
        return time.time() - (home.folder / ONLINE).stat().st_mtime < 30.0
    except FileNotFoundError:
        return False


def _code(home: Home, kit: Kit) -> Check:
    installed = (
        flower_home.install_app(home.flower) if not flower_home.is_installed(home.flower, sha256=kit.app_sha256) else None
    )
    if installed not in {None, kit.app_sha256}:
        problem = Problem(
            f"this installation has app {str(installed)[:12]}, the center {kit.app_sha256[:12]}",
            "install the release that the center runs, or ask it for a new kit after it has updated",
        )
        return check_of("code", _HOME, str(home.flower), failures=[problem])
    try:
        prefix = flower_home.lock_app(home.flower)
    except ConfigurationError as error:
        fault = error.faults[0]
        return check_of("code", _HOME, fault.found, failures=[Problem("the center could unpack code of its own", fault.remedy)])
    how = "by a mount of its own" if prefix else "by permissions"
    return check_of("code", _HOME, f"read-only {how}; holds the one app {kit.app_sha256[:12]}")


def _disk(home: Home) -> Check:
    free = shutil.disk_usage(home.folder).free
    problem = Problem("the disk is nearly full", "make space: a full disk ends the connection")
    found = f"{free / 1e9:.1f} GB free in {home.folder}"
    return check_of(
        "disk",
        _DISK,
        found,
        failures=[problem] if free < DISK_WANTED / 8 else [],
        warnings=[problem] if DISK_WANTED / 8 <= free < DISK_WANTED else [],
    )


def _gpu() -> Check:
    """What the driver says; whether the worker's torch can use it, consilium-site check tells."""
    if shutil.which("nvidia-smi") is None:
        there = Path("/dev/nvidia0").exists()
        problem = Problem("there is a GPU without nvidia-smi", "install NVIDIA's driver tools, or pass them into the container")
        return check_of(
            "gpu",
            "GPU",
            "a device without its driver tools" if there else f"none; {os.cpu_count()} CPU cores train",
            warnings=[problem] if there else [],
        )
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=20.0, check=False)
    if told.returncode or not told.stdout.strip():
        problem = Problem(
            "nvidia-smi finds no working GPU", "install a driver that fits the kernel; in a container, pass the device on"
        )
        return check_of("gpu", "GPU", (told.stdout + told.stderr).strip()[:200], warnings=[problem])
    return check_of("gpu", "GPU", "; ".join(line.strip() for line in told.stdout.strip().splitlines()))
