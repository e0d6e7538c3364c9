"""Three hospitals and a center on networks of their own, started with the README's commands by users without rights: relays
whose one cable leads to the center and to nobody else, workers without any network, and data that relays cannot read. Then
a center that turns hostile."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from server.launch import Extent, prepare, simulate
from shared_model import flower_home
from shared_model.errors import FailureCode
from shared_model.protocol import read_protocol
from tests import namespaces
from tests.deployed import CENTER, SITE, environment, wait_for, without_proxies
from tests.hostile_app.site import GOT_NOTHING
from tests.namespaces import ELSEWHERE, Networks, networks
from tests.tables import write_sites, write_study

LACKING = namespaces.missing()
pytestmark = [
    pytest.mark.federation,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(LACKING), reason=LACKING),
]
HOSPITALS = ("alder", "birch", "cedar")
DOOR = f"{namespaces.CENTER}:443"
CENTER_USER = 20_000
SEED = 5
HOSTILE = Path(__file__).parents[1] / "hostile_app"


@dataclass
class Hospital:
    """One hospital's folders, and its two users: the worker's may read the data, the relay's may not."""

    name: str
    folder: Path
    worker_user: int
    relay_user: int

    @property
    def config(self) -> Path:
        return self.folder / "config" / "site.toml"

    @property
    def table(self) -> Path:
        return self.folder / "data" / f"{self.name}.csv"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "worker.sock"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def kit(self) -> Path:
        return self.folder / "config" / "kit.json"


@dataclass
class Rehearsal:
    """All of it under ``folder``; ``desk`` is what people send each other."""

    folder: Path
    nets: Networks
    hospitals: dict[str, Hospital]
    study: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def federation(self) -> Path:
        return self.folder / "center" / "federation"

    def center(self, *arguments: object) -> list[str]:
        return [*self.nets.command("center", user=CENTER_USER, folder=self.folder / "center"), *CENTER, *map(str, arguments)]

    def relay(self, hospital: Hospital, *arguments: object) -> list[str]:
        return [*self._in_relay(hospital), *SITE, *map(str, arguments)]

    def worker(self, hospital: Hospital, *arguments: object) -> list[str]:
        at = self.nets.command(f"{hospital.name}-worker", user=hospital.worker_user, folder=hospital.state)
        return [*at, *SITE, *map(str, arguments)]

    def _in_relay(self, hospital: Hospital) -> list[str]:
        return self.nets.command(hospital.name, user=hospital.relay_user, folder=hospital.home)

    def probe(self, hospital: Hospital, plan: Path, *, as_worker: bool = False) -> dict[str, str]:
        """What code of a hostile center gets, run with all that a hospital's relay, or its worker, may do."""
        name, user = (f"{hospital.name}-worker", hospital.worker_user) if as_worker else (hospital.name, hospital.relay_user)
        command = [*self.nets.command(name, user=user), sys.executable, str(HOSTILE / "site.py"), str(plan)]
        return dict(json.loads(done(command)))

    def supernode(self, hospital: Hospital) -> list[str]:
        """Flower's own command, as of a hospital that does without ``consilium-site join``."""
        command = ["flower-supernode", "--superlink", DOOR, "--root-certificates", str(hospital.home / "center.crt")]
        command += ["--auth-supernode-private-key", str(hospital.home / "node.key"), "--host", "127.0.0.1", "--port", "9094"]
        home = ["env", f"FLWR_HOME={hospital.home / 'open'}"]
        return [*self._in_relay(hospital), *home, *command, "--node-config", f'worker="{hospital.socket}"']

    def start(self, name: str, command: list[str]) -> None:
        with self.log_file(name).open("ab") as log:
            self.running[name] = subprocess.Popen(command, env=plain(), stdout=log, stderr=log, start_new_session=True)

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_file(name).read_text(errors="replace") if self.log_file(name).exists() else ""

    def await_line(self, name: str, text: str) -> None:
        def there() -> bool:
            assert self.running[name].poll() is None, self.log(name)
            return text in self.log(name)

        wait_for(there, timeout_s=180.0, told=lambda: self.log(name))

    def stop(self, name: str) -> int:
        self.running[name].terminate()
        return self.running.pop(name).wait(60.0)


def plain() -> dict[str, str]:
    """The environment of everybody: Flower's commands in reach, nothing of root's."""
    scripts = str(Path(sys.executable).parent)
    here = without_proxies(environment()) | flower_home.QUIET | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    return here | {"PATH": os.pathsep.join([scripts, here["PATH"]])}


def done(command: list[str]) -> str:
    result = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def open_folder(path: Path, *, user: int, mode: int, group: int | None = None) -> Path:
    path.mkdir(parents=True)
    os.chown(path, user, user if group is None else group)
    path.chmod(mode)
    return path


def send(file: Path, to: Path) -> Path:
    """A file that people send each other arrives readable."""
    shutil.copyfile(file, to)
    to.chmod(0o644)
    return to


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    """Everybody is provisioned, enrolled, has approved the study, and is connected."""
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))  # not below a folder that is root's alone
    folder.chmod(0o755)
    with networks(HOSPITALS) as nets:
        tables = {path.stem: path for path in write_sites(folder / "tables", names=HOSPITALS)}
        made = Rehearsal(folder, nets, {}, write_study(folder / "desk", rounds=2))
        for number, name in enumerate(HOSPITALS, start=1):
            made.hospitals[name] = furnish(folder / name, number, tables[name])
        open_folder(folder / "center", user=CENTER_USER, mode=0o700)
        try:
            connect(made)
            yield made
        finally:
            for process in made.running.values():
                process.terminate()
            for process in made.running.values():
                process.wait(60.0)
            shutil.rmtree(folder)


def furnish(folder: Path, number: int, site: Path) -> Hospital:
    """A hospital's folders. The data are root's, and may be read by the worker's group alone."""
    hospital = Hospital(site.stem, folder, CENTER_USER + 10 * number, CENTER_USER + 10 * number + 1)
    open_folder(folder, user=0, mode=0o755)
    open_folder(folder / "config", user=0, mode=0o755)
    open_folder(folder / "data", user=0, group=hospital.worker_user, mode=0o750)
    open_folder(hospital.state, user=hospital.worker_user, mode=0o700)
    open_folder(folder / "run", user=hospital.worker_user, mode=0o755)
    open_folder(hospital.home, user=hospital.relay_user, mode=0o700)
    hospital.config.write_text(site.read_text().replace(f'"{site.stem}.csv"', f'"../data/{site.stem}.csv"'))
    shutil.copyfile(site.with_suffix(".csv"), hospital.table)
    os.chown(hospital.table, 0, hospital.worker_user)
    hospital.table.chmod(0o440)
    return hospital


def connect(made: Rehearsal) -> None:
    """As the README says: provision, enrol, approve-site, approve, worker, up, join."""
    done(made.center("provision", "--out", made.federation, "--host", namespaces.CENTER, "--port", 443))
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(partial(prepare_hospital, made), made.hospitals.values()))
    for name, hospital in made.hospitals.items():
        request = send(hospital.home / "out.json", made.folder / "desk" / f"{name}.json")
        done(made.center("approve-site", made.federation, request))
        send(made.federation / "kits" / f"{name}.kit.json", hospital.kit)
    made.start("up", made.center("up", made.federation))
    made.await_line("up", "hospitals can connect")
    for name, hospital in made.hospitals.items():
        made.running[f"capture-{name}"] = made.nets.capture(name, made.folder / f"{name}.frames")
        join = ("join", hospital.kit, "--home", hospital.home, "--worker", hospital.socket)
        made.start(f"join-{name}", made.relay(hospital, *join))
    for name, hospital in made.hospitals.items():
        made.await_line(f"join-{name}", "connected to")
        wait_for(hospital.socket.is_socket, timeout_s=60.0)


def prepare_hospital(made: Rehearsal, hospital: Hospital) -> None:
    """Its worker, its keys, and its approval of the study."""
    socket = ("--socket", hospital.socket, "--allow-uid", hospital.relay_user)
    worker = made.worker(hospital, "worker", hospital.config, *socket, "--state", hospital.state, "--threads", 1)
    made.start(f"worker-{hospital.name}", worker)
    done(made.relay(hospital, "enrol", hospital.config, "--home", hospital.home, "--out", hospital.home / "out.json"))
    approving = ("--site", hospital.config, "--state", hospital.state, "--yes", "--by", "test")
    done(made.worker(hospital, "approve", made.study, *approving))


# A study


@pytest.fixture(scope="module")
def looks(rehearsal: Rehearsal) -> dict[str, list[list[str]]]:
    """A whole study; what ``ss`` tells of each hospital's connections meanwhile, look by look."""
    seen: dict[str, list[list[str]]] = {name: [] for name in HOSPITALS}
    over = Event()

    def watch() -> None:
        while not over.wait(0.4):
            for name in HOSPITALS:
                seen[name].append(rehearsal.nets.look(name, "ss", "-Htn", "state", "established"))

    watching = Thread(target=watch)
    watching.start()
    try:
        out = rehearsal.folder / "center" / "run"
        run = ("run", rehearsal.study, "--federation", rehearsal.federation, "--sites", ",".join(HOSPITALS))
        done(rehearsal.center(*run, "--out", out, "--seed", SEED))
    finally:
        over.set()
        watching.join()
    return seen


def test_the_study_ends_with_the_bits_of_a_simulated_one(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], tmp_path: Path
) -> None:
    sites = [hospital.config for hospital in rehearsal.hospitals.values()]
    simulation = prepare(rehearsal.study, sites, out=tmp_path / "simulated", seed=SEED, threads=1)
    simulate(simulation, extent=Extent(), console=Console(quiet=True))
    runs = rehearsal.folder / "center" / "run", tmp_path / "simulated"
    ours, theirs = (load_file(run / "models" / "best.safetensors") for run in runs)
    assert {name: tensor.tobytes() for name, tensor in ours.items()} == {
        name: tensor.tobytes() for name, tensor in theirs.items()
    }


@pytest.mark.parametrize("name", HOSPITALS)
def test_a_hospital_reaches_out_to_one_port_and_nothing_reaches_in(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], name: str
) -> None:
    """Every frame that went over its cable since before it joined."""
    frames = [line.split() for line in (rehearsal.folder / f"{name}.frames").read_text().splitlines()[1:]]
    assert len(frames) > 100
    kinds = Counter(" ".join(words[1:-3]) if words[1] == "tcp" else " ".join(words[1:]) for words in frames)
    assert set(kinds) == {"tcp", "arp"}, kinds
    tcp = [words for words in frames if words[1] == "tcp"]
    assert {words[3] if words[0] == "out" else words[2] for words in tcp} == {DOOR}
    assert {words[0] for words in tcp if words[4] == "SYN"} == {"out"}


@pytest.mark.parametrize("name", HOSPITALS)
def test_a_hospital_is_connected_to_one_port_and_has_none_open(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], name: str
) -> None:
    outward = [[line.split()[3] for line in look if not line.split()[3].startswith("127.0.0.1:")] for look in looks[name]]
    assert len(outward) > 10
    assert {peer for look in outward for peer in look} == {DOOR}
    # One SuperNode: it asks for work, says that it is alive, and fetches two pieces of a model, each of which may wait.
    assert max(map(len, outward)) <= 4, Counter(map(len, outward))
    listening = {line.split()[3].rpartition(":")[0] for line in rehearsal.nets.look(name, "ss", "-Htln")}
    assert listening == {"127.0.0.1"}  # its SuperNode, for the relay beside it
    assert rehearsal.nets.look(name, "ss", "-Huan") == []


@pytest.mark.parametrize("name", HOSPITALS)
def test_a_worker_has_no_network(rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], name: str) -> None:
    there = f"{name}-worker"
    interfaces = rehearsal.nets.look(there, "ip", "-brief", "link")
    assert [line.split()[:2] for line in interfaces] == [["lo", "DOWN"]]
    assert rehearsal.nets.look(there, "ip", "address", "show", "up") == []
    assert rehearsal.nets.look(there, "ip", "route") == []
    assert rehearsal.nets.look(there, "ss", "-Htuan") == []
    process = psutil.Process(rehearsal.running[f"worker-{name}"].pid)
    assert process.uids().effective == rehearsal.hospitals[name].worker_user
    assert Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


# A center that turns hostile


@pytest.fixture(scope="module")
def plan(rehearsal: Rehearsal) -> Path:
    """Everything that code of a center at the first hospital could think of, as it would know all paths and addresses."""
    first, second, _ = rehearsal.hospitals.values()
    other = rehearsal.study.read_text().replace("rounds = 2", "rounds = 3")
    unapproved = rehearsal.folder / "unapproved.toml"
    unapproved.write_text(other)
    document = {
        "canary": f"{first.name}-17",
        "files": [str(first.table), str(first.state / f"site.{first.name}" / "audit.jsonl"), "/etc/shadow"],
        "folders": [str(first.table.parent), str(first.state), str(second.home)],
        "writable": [str(first.table), str(first.config), str(Path(flower_home.__file__))],
        "addresses": [[namespaces.CENTER, 443], [ELSEWHERE, 80], ["10.83.2.2", 9094], ["10.83.0.2", 443]],
        "elsewhere": ELSEWHERE,
        "questions": [
            [str(first.socket), "name"],
            [str(first.socket), "patients"],
            [str(first.socket), "pickle"],
            [str(first.socket), read_protocol(unapproved).canonical_json],
            [str(second.socket), "name"],
        ],
    }
    file = rehearsal.folder / "desk" / "plan.json"
    file.write_text(json.dumps(document))
    return file


@pytest.fixture(scope="module")
def hostile(rehearsal: Rehearsal) -> Path:
    """The hostile app, installed at the center."""
    folder = open_folder(rehearsal.folder / "desk" / "hostile", user=0, mode=0o755)
    app = write_app(folder / "app")
    home = rehearsal.federation / "state" / "flower"
    for path in (home, home / flower_home.APPS):
        path.chmod(0o755)
    [bundle] = folder.glob("*.fab")
    done([*rehearsal.nets.command("center", user=CENTER_USER), "env", f"FLWR_HOME={home}", "flwr", "install", str(bundle)])
    return app


def submit(rehearsal: Rehearsal, app: Path, plan: Path, name: str) -> list[str]:
    """The center ships its app to all hospitals that are online; what they answered."""
    state = rehearsal.federation / "state"
    out = rehearsal.folder / "center" / f"{name}.json"
    operator = [*rehearsal.nets.command("center", user=CENTER_USER, folder=state), "env", f"FLWR_HOME={state / 'operator'}"]
    done([*operator, "flwr", "run", str(app), "center", "--run-config", f'plan="{plan}" out="{out}"'])
    wait_for(out.exists, timeout_s=120.0, told=lambda: rehearsal.log("up"))
    return list(json.loads(out.read_text()))


def write_app(folder: Path) -> Path:
    """Under the very name of the app that hospitals have."""
    shutil.copytree(HOSTILE, folder / "hostile", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "consilium"\nversion = "0.1.0"\ndescription = "x"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "consilium"\nfab-include = ["hostile/*.py"]\n'
        '[tool.flwr.app.components]\nserverapp = "hostile.center:app"\nclientapp = "hostile.site:app"\n'
        '[tool.flwr.app.config]\nplan = ""\nout = ""\n'
    )
    tools = flower_home.environment(folder / "home")
    flower_home.flwr("build", "--app", str(folder), folder=folder.parent, environment=tools)
    return folder


def test_hostile_code_is_refused_by_every_hospital(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], plan: Path, hostile: Path
) -> None:
    replies = submit(rehearsal, hostile, plan, "refused")
    assert len(replies) == len(HOSPITALS)
    assert all("Read-only file system" in reply or "Permission denied" in reply for reply in replies), replies


def test_hostile_code_that_did_run_would_find_no_patient_and_no_way_out(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], plan: Path, hostile: Path
) -> None:
    """One hospital that does without the read-only home, Flower's default: the center's code runs there, as the relay."""
    first = next(iter(rehearsal.hospitals.values()))
    for name in HOSPITALS:
        assert rehearsal.stop(f"join-{name}") == 0
    open_folder(first.home / "open", user=first.relay_user, mode=0o700)
    rehearsal.start("open", rehearsal.supernode(first))
    rehearsal.await_line("open", "SuperNode ID:")
    [reply] = submit(rehearsal, hostile, plan, "ran")
    booty = json.loads(reply)
    by_hand = rehearsal.probe(first, plan)
    assert booty == by_hand
    assert booty == {**dict.fromkeys(booty, "PermissionError"), **let_through(rehearsal, plan)}
    assert json.loads(plan.read_text())["canary"] not in reply


def let_through(rehearsal: Rehearsal, plan: Path) -> dict[str, str]:
    """What does not end with a lack of permission: the center's port answers, to the rest of the world there is no way, and
    the worker tells its name and refuses what is not of the closed set, or not approved."""
    first, second, _ = rehearsal.hospitals.values()
    *_, (_, unapproved), _ = json.loads(plan.read_text())["questions"]
    nowhere = {f"connect {address}": "OSError" for address in (f"{ELSEWHERE}:80", "10.83.2.2:9094", "10.83.0.2:443")}
    ask = f"ask {first.socket}"
    return {
        f"connect {DOOR}": "connected",
        **nowhere,
        "datagram": "OSError",
        "resolve": "gaierror",
        "other processes": GOT_NOTHING,
        f"{ask} name": first.name,
        f"{ask} patients": "UNIMPLEMENTED",
        f"{ask} pickle": "INVALID_ARGUMENT",
        f"{ask} {unapproved}": FailureCode.NOT_APPROVED.value,
        f"ask {second.socket} name": "UNAVAILABLE",
    }


def test_the_same_code_finds_patients_where_it_may(
    rehearsal: Rehearsal, looks: Mapping[str, list[list[str]]], plan: Path
) -> None:
    """The probe is no sham: as the worker's user it reads the table, which has no network to carry it out by."""
    first = next(iter(rehearsal.hospitals.values()))
    booty = rehearsal.probe(first, plan, as_worker=True)
    assert f"{first.name}-0" in booty[f"read {first.table}"]
    assert booty[f"connect {DOOR}"] == "OSError"
    mode = stat.S_IMODE(first.table.stat().st_mode)
    assert (mode, booty[f"write {first.table}"]) == (0o440, "PermissionError")
