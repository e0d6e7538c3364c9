"""The images built and run by a container engine, where there is one: the relay from its wheelhouse without a network; and
``docker/rehearse.sh`` whole, in which one worker and one relay are killed while everybody trains.

Nothing is asked of a registry of images: the base image, and for the rehearsal the large images, are those that the engine has.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deployed import wait_for

ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
HOSPITALS = ("alder", "birch", "cedar")
USER = 10001

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(2400)]


def docker(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def fails(*arguments: str) -> bool:
    return subprocess.run(["docker", *arguments], capture_output=True, check=False).returncode != 0


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if shutil.which("docker") is None or fails("info"):
        pytest.skip("no container engine answers to docker")
    if fails("compose", "version") or fails("buildx", "version"):
        pytest.skip("needs the plugins compose and buildx of docker")
    if fails("image", "inspect", BASE):
        pytest.skip(f"the engine has no image {BASE}")


# The relay, built without a network


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    context = tmp_path_factory.mktemp("context")
    for name in ("docker", ".ci", "server", "client", "shared_model", "site_configs"):
        shutil.copytree(ROOT / name, context / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(ROOT / name, context)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    made = subprocess.run([context / "docker" / "wheelhouse.sh", "relay"], env={**os.environ, "PATH": path}, check=False)
    assert made.returncode == 0
    name = f"consilium-relay-trial-{os.getpid()}"
    file = str(context / "docker" / "site.Dockerfile")
    docker("build", "--network", "none", "--no-cache", "--file", file, "--target", "relay", "--tag", name, str(context))
    yield name
    docker("image", "rm", name)


def test_the_relay_is_built_without_a_network_and_starts_as_its_user(relay: str) -> None:
    hardened = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
    assert "join" in docker(*hardened, relay, "--help")
    assert docker(*hardened, "--entrypoint", "id", relay, "-u").strip() == str(USER)
    packages = {
        item["name"] for item in json.loads(docker(*hardened, "--entrypoint", "pip", relay, "list", "--format", "json"))
    }
    assert {"flwr", "consilium"} <= packages
    assert not {"torch", "pandas", "pydicom", "opacus"} & packages


def test_the_image_keeps_nothing_that_only_its_installation_reads(relay: str) -> None:
    kept = docker("run", "--rm", "--network", "none", "--entrypoint", "ls", relay, "/").split()
    assert not {"needs", "source"} & set(kept)
    layers = docker("history", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", relay).splitlines()
    assert not [layer for layer in layers if " COPY " in layer]
    [release] = [layer for layer in layers if "install.sh release" in layer]
    assert float(release.split("MB")[0]) < 20.0


# The rehearsal, looked at while it trains

PROBE = """\
import json, os, socket, sys
def answers(address):
    try:
        socket.create_connection(address, 3.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True
def writes(folder):
    try:
        open(folder + "/trial", "w").close()
    except OSError:
        return False
    os.remove(folder + "/trial")
    return True
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
interfaces = {name: int(open(f"/sys/class/net/{name}/flags").read(), 16) for name in os.listdir("/sys/class/net")}
print(json.dumps({
    "user": int(status["Uid"].split()[1]),
    "rights": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")],
    "no_new_privileges": int(status["NoNewPrivs"]),
    "interfaces": sorted(name for name, flags in interfaces.items() if flags & 1),
    "center": answers(("center", 443)),
    "elsewhere": [address for address in json.loads(sys.argv[1]) if answers(address)],
    "writable": [folder for folder in json.loads(sys.argv[2]) if writes(folder)],
    "configuration": sorted(os.listdir("/etc/consilium")) if os.path.exists("/etc/consilium") else [],
}))
"""
KILL = """\
import os, signal
for name in filter(str.isdecimal, os.listdir("/proc")):
    if name != str(os.getpid()) and open(f"/proc/{name}/stat").read().rpartition(") ")[2].split()[1] == "1":
        os.kill(int(name), signal.SIGKILL)
"""


@dataclass
class Container:
    """One service of the rehearsal."""

    service: str

    @property
    def name(self) -> str:
        return f"consilium-rehearsal-{self.service}-1"

    def told(self) -> dict[str, Any]:
        """What the engine says of it."""
        return dict(json.loads(docker("inspect", self.name))[0])

    def python(self, program: str, *arguments: object) -> str:
        words = [argument if isinstance(argument, str) else json.dumps(argument) for argument in arguments]
        return docker("exec", "--interactive", self.name, "python", "-", *words, stdin=program)

    def kill(self) -> None:
        """Kill the program of the container, which is the child of the engine's own init."""
        self.python(KILL)


@dataclass
class Seen:
    """What a rehearsal was like: each container as the engine described it and as a program inside it found it, how often
    the two that were killed were started, and what the script printed."""

    engine: dict[str, dict[str, Any]]
    inside: dict[str, dict[str, Any]]
    restarts: dict[str, int]
    printed: str
    report: Path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    if fails("image", "inspect", "consilium-worker", "consilium-center"):
        pytest.skip("the engine has no images consilium-worker and consilium-center, of 7 GB: run docker/rehearse.sh once")
    if docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=consilium-rehearsal").strip():
        pytest.skip("a rehearsal is going on here")
    folder = tmp_path_factory.mktemp("rehearsal")
    log, report = folder / "log", folder / "report.html"
    command = [str(ROOT / "docker" / "rehearse.sh"), str(report)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, "ROUNDS": "20"}, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:

        def said(text: str) -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return text in log.read_text()

        wait_for(lambda: said("round 2/"), timeout_s=1500.0, told=log.read_text)
        services = ["center", *(f"{site}-{part}" for site in HOSPITALS for part in ("worker", "relay"))]
        engine = {service: Container(service).told() for service in services}
        inside = {service: look(service, engine) for service in services}
        killed = [Container("birch-worker"), Container("cedar-relay")]
        for container in killed:
            container.kill()
        wait_for(lambda: said("round 9/"), timeout_s=600.0, told=log.read_text)
        restarts = {container.service: int(container.told()["RestartCount"]) for container in killed}
        assert process.wait(600.0) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # it takes everything down
            process.wait(120.0)
    yield Seen(engine, inside, restarts, log.read_text(), report)


def look(service: str, engine: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a program in the container finds: who it is, what answers it besides the center, and where it can write."""
    networks = {}
    for site in HOSPITALS:
        [network] = engine[f"{site}-relay"]["NetworkSettings"]["Networks"].values()
        networks[site] = network["IPAddress"]
    elsewhere = [("192.0.2.1", 443)]
    elsewhere += [(address, 9094) for site, address in networks.items() if not service.startswith(site)]
    # What would be the address of this machine in each network: a refusal would be an answer.
    elsewhere += [(f"{address.rpartition('.')[0]}.1", 22) for address in networks.values()]
    folders = ["/", "/etc", "/usr/local", "/opt", "/etc/consilium", "/tmp", "/run/consilium", "/var/lib/consilium"]
    return dict(json.loads(Container(service).python(PROBE, elsewhere, folders)))


WORKERS, RELAYS = ([f"{site}-{part}" for site in HOSPITALS] for part in ("worker", "relay"))


@pytest.mark.parametrize("service", ["center", *WORKERS, *RELAYS])
def test_a_container_has_no_right_and_is_bounded(seen: Seen, service: str) -> None:
    found, told = seen.inside[service], seen.engine[service]["HostConfig"]
    assert (found["user"], found["rights"], found["no_new_privileges"]) == (USER, [0, 0, 0], 1)
    writable = {"/tmp", "/var/lib/consilium"} | ({"/run/consilium"} if service != "center" else set())
    assert set(found["writable"]) == writable
    assert told["ReadonlyRootfs"] is True
    assert min(told["Memory"], told["NanoCpus"], told["PidsLimit"]) > 0
    assert seen.engine[service]["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_has_no_network(seen: Seen, service: str) -> None:
    found = seen.inside[service]
    assert (found["interfaces"], found["center"], found["elsewhere"]) == (["lo"], False, [])


@pytest.mark.parametrize("service", RELAYS)
def test_a_relay_reaches_the_center_alone_and_sees_no_patient(seen: Seen, service: str) -> None:
    found = seen.inside[service]
    assert (found["interfaces"], found["center"], found["elsewhere"]) == (["eth0", "lo"], True, [])
    assert found["configuration"] == ["kit.json"]
    mounts = {mount["Destination"] for mount in seen.engine[service]["Mounts"]}
    assert mounts == {"/etc/consilium", "/run/consilium", "/var/lib/consilium"}


def test_who_is_killed_is_started_again_and_the_study_ends_with_all(seen: Seen) -> None:
    assert seen.restarts == {"birch-worker": 1, "cedar-relay": 1}
    assert "site birch does not count (train)" in seen.printed
    assert "site cedar does not count (train)" in seen.printed
    assert "Three sites enrolled; the final model was tested at all of them" in " ".join(seen.report.read_text().split())
