"""A center and three hospitals as deployed: SuperLink, three SuperNodes, three workers, TLS and node authentication."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from rich.console import Console
from safetensors.numpy import load_file

from server.app_files import CONDUCTING
from server.journal import FILE, Journal
from server.launch import Extent, prepare, simulate
from server.provisioning import Federation
from shared_model import flower_home
from shared_model.locking import is_held
from tests.deployed import CENTER, Deployed, deployed, environment, wait_for
from tests.tables import write_sites, write_study

pytestmark = [pytest.mark.federation, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
HEART = ROOT / "site_configs" / "heart"
SEED, ROUNDS = 3, 2
IMPATIENT = [sys.executable, "-c", "from client import joining; joining.REFUSALS = 1; from client.cli import app; app()"]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Three of the four real heart hospitals where there are real data, else three that are made up; and a study of two
    rounds."""
    folder = tmp_path_factory.mktemp("tables")
    data = Path(os.environ.get("CONSILIUM_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "heart_disease_4centres").is_dir():
        sites = write_sites(folder)
        return write_study(folder, rounds=ROUNDS), {path.stem: path for path in sites}
    os.environ["CONSILIUM_DATA"] = str(data)
    study = folder / "study.toml"
    study.write_text(re.sub(r"(?m)^rounds = \d+", f"rounds = {ROUNDS}", (HEART / "study.toml").read_text()))
    return study, {name: HEART / f"{name}.toml" for name in ("cleveland", "hungary", "long_beach")}


@pytest.fixture(scope="module")
def federation(hospitals: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """All processes, up and connected."""
    with deployed(tmp_path_factory.mktemp("federation"), hospitals[1]) as made:
        made.start("up", CENTER, "up", made.federation)
        for site in made.sites:
            made.worker(site)
        made.await_line("up", "hospitals can connect")
        for site in made.sites:
            made.join(site)
        for site in made.sites:
            made.await_line(f"join-{site}", "connected to")
            wait_for(made.socket(site).is_socket, timeout_s=60.0)
        yield made


def test_a_study_that_was_stopped_goes_on_and_ends_with_the_bits_of_a_simulated_one(
    federation: Deployed, hospitals: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    study, sites = hospitals
    for site in sites:
        federation.approve(site, study)
    out = federation.folder / "run"
    command = ("run", study, "--federation", federation.federation, "--sites", ",".join(sites), "--out", out, "--seed", SEED)
    federation.start("run", CENTER, *command)
    wait_for(lambda: rounds_of(out) >= 1, timeout_s=300.0, told=lambda: federation.log("run") + federation.log("up"))
    assert federation.stop("run", timeout_s=90.0) == 130
    assert "the same command goes on from there" in federation.log("run")
    assert not is_held(out / CONDUCTING)

    result = federation.run(study, out, "--seed", SEED)
    assert result.returncode == 0, result.stdout + result.stderr + federation.log("up")
    assert result.stdout.rstrip().endswith("finished")

    simulation = prepare(study, list(sites.values()), out=tmp_path / "simulated", seed=SEED, threads=1)
    simulate(simulation, extent=Extent(), console=Console(quiet=True))
    ours, theirs = (load_file(run / "models" / "best.safetensors") for run in (out, tmp_path / "simulated"))
    assert {name: tensor.tobytes() for name, tensor in ours.items()} == {
        name: tensor.tobytes() for name, tensor in theirs.items()
    }
    results = json.loads((out / "results.json").read_text())
    assert set(results["sites"]) == set(sites)
    assert results["run"]["engine"] == "deployment"

    again = federation.run(study, out, "--seed", SEED)
    assert again.returncode == 0
    assert "nothing to train" in again.stdout
    other = federation.run(study, out, "--seed", SEED + 1)
    assert other.returncode == 2
    assert "choose another --out" in other.stderr


def rounds_of(out: Path) -> int:
    if not (out / FILE).exists():
        return 0
    with Journal(out) as journal:
        return len(journal.rounds())


def test_a_study_that_no_hospital_has_approved_is_run_nowhere(
    federation: Deployed, hospitals: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(hospitals[0].read_text().replace(f"rounds = {ROUNDS}", f"rounds = {ROUNDS + 1}"))
    result = federation.run(study, federation.folder / "unapproved", "--relaunches", 0)
    assert result.returncode == 1
    assert result.stderr.count("it has not approved this study") == len(federation.sites), result.stderr


def test_what_a_site_remembers_lies_at_the_site(federation: Deployed) -> None:
    """State of a hospital is in its worker's folder; the relay's has keys, logs and Flower's home."""
    allowed = {
        "node.key",
        "identity.key",
        "request.json",
        "center.json",
        "center.crt",
        "flower",
        "logs",
        "join.lock",
        "online",
        "warm",
    }
    for site in federation.sites:
        assert {path.name for path in federation.home(site).iterdir()} <= allowed


def request(federation: Deployed, head: str) -> int:
    """The status of a request as written, by a client that trusts the center."""
    context = ssl.create_default_context(cafile=str(federation.federation / "ca" / "root.crt"))
    plain = socket.create_connection(("127.0.0.1", federation.port), timeout=20)
    with closing(context.wrap_socket(plain, server_hostname="127.0.0.1")) as stream:
        stream.sendall(f"{head} HTTP/1.1\r\nHost: center\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return int(stream.recv(4096).split()[1])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /v1/control/list-runs", 403),
        ("POST /v1/control/start-run", 403),
        ("POST /v1/runtime/acquire-task", 403),
        ("GET /docs", 403),
        ("GET /openapi.json", 403),
        ("GET /health", 403),
        ("GET /v1/fleet/", 403),
        ("POST /v1/fleet/../control/list-runs", 403),
        ("POST /v1/fleet/%2e%2e/control/list-runs", 403),
        ("POST /v1/fleet/%2e%2e%2fcontrol/list-runs", 403),
        ("POST /v1/fleet/..%2fcontrol/list-runs", 403),
        ("POST //v1/control/list-runs", 403),
        ("POST /v1/control/../fleet/pull-messages", 404),
        ("POST /v1/fleet/%252e%252e/control/list-runs", 404),
        ("POST /v1/fleet/register-node", 401),
    ],
)
def test_only_the_fleet_api_is_open_to_the_world(federation: Deployed, head: str, status: int) -> None:
    answered = request(federation, head)
    assert answered == status or (status == 401 and answered in {400, 403, 412, 415, 422})


def test_what_is_not_the_door_listens_on_this_machine_only(federation: Deployed) -> None:
    processes = psutil.Process(federation.running["up"].pid).children(recursive=True)
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("0.0.0.0", federation.port) in listening
    assert {address for address, port in listening if port != federation.port} == {"127.0.0.1"}


def test_old_tls_is_refused(federation: Deployed) -> None:
    context = ssl.create_default_context(cafile=str(federation.federation / "ca" / "root.crt"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with closing(socket.create_connection(("127.0.0.1", federation.port), timeout=20)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_second_instance_is_refused(federation: Deployed) -> None:
    site = next(iter(federation.sites))
    join = federation.site("join", federation.kit(site), "--home", federation.home(site), "--worker", federation.socket(site))
    assert join.returncode == 1
    assert "another consilium-site join is at work" in join.stderr
    up = federation.center("up", federation.federation)
    assert up.returncode != 0


def test_the_doctor_finds_a_connected_site_well(federation: Deployed) -> None:
    site, file = next(iter(federation.sites.items()))
    options = ("--site", file, "--worker", federation.socket(site), "--home", federation.home(site), "--json")
    result = federation.site("doctor", federation.kit(site), *options)
    checks = {check["id"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.returncode == 0, result.stdout
    assert {check["status"] for check in checks.values()} <= {"pass", "warn"}
    for id_ in ("keys", "name", "port", "tls", "certificate", "clock", "auth", "worker", "code"):
        assert checks[id_]["status"] == "pass"


def test_a_renewed_server_certificate_is_taken_up_while_running(federation: Deployed) -> None:
    before = presented(federation)
    assert federation.center("rotate", federation.federation).returncode == 0
    wait_for(lambda: presented(federation) != before, timeout_s=30.0, told=lambda: federation.log("up"))
    assert Federation(federation.federation).warnings == []


def presented(federation: Deployed) -> int:
    pem = ssl.get_server_certificate(("127.0.0.1", federation.port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_key_that_the_center_does_not_know_stays_out(federation: Deployed, tmp_path: Path) -> None:
    """A kit signed by the center for keys that SuperLink was never told of, as if the center's folder had been copied."""
    site, file = next(iter(federation.sites.items()))
    copy, home = tmp_path / "copy", tmp_path / "home"
    copy.mkdir()
    for name in ("ca", "tls", "federation.toml"):
        subprocess.run(["cp", "-r", federation.federation / name, copy], check=True)
    for name in ("sites", "kits", "state"):
        (copy / name).mkdir()
    stranger = tmp_path / "request.json"
    assert federation.site("enrol", file, "--home", home, "--out", stranger).returncode == 0
    assert federation.center("approve-site", copy, stranger).returncode == 0
    kit = copy / "kits" / f"{site}.kit.json"
    doctor = federation.site("doctor", kit, "--home", home)
    assert doctor.returncode == 2
    assert "the key is not approved yet, or was revoked" in doctor.stdout
    join = subprocess.run(
        [*IMPATIENT, "join", str(kit), "--home", str(home), "--worker", "w.sock"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert join.returncode == 2, join.stdout + join.stderr
    assert "the center does not accept the key" in join.stderr
    assert "Traceback" not in join.stderr


def test_a_center_of_another_authority_is_refused(federation: Deployed, tmp_path: Path) -> None:
    site, file = next(iter(federation.sites.items()))
    fed, home, file_ = tmp_path / "mallory", tmp_path / "home", tmp_path / "request.json"
    arguments = ("provision", "--out", fed, "--host", "127.0.0.1", "--port", federation.port)
    assert federation.center(*arguments).returncode == 0
    assert federation.site("enrol", file, "--home", home, "--out", file_).returncode == 0
    assert federation.center("approve-site", fed, file_).returncode == 0
    join = federation.site("join", fed / "kits" / f"{site}.kit.json", "--home", home, "--worker", "w.sock")
    assert join.returncode == 2
    assert "not the authority of the kit" in join.stderr
    assert "compare the fingerprint by telephone" in join.stderr


def test_code_of_a_hostile_center_is_not_even_unpacked(federation: Deployed, tmp_path: Path) -> None:
    """Whoever holds the center submits an app that brings code along; it runs at the center, and at no hospital."""
    state = federation.federation / "state"
    marks = tmp_path / "marks"
    marks.mkdir()
    bundle = write_hostile_app(tmp_path / "hostile", marks)
    home = state / "flower"
    for path in (home, home / flower_home.APPS):
        path.chmod(0o755)
    tools = environment() | flower_home.environment(home)
    flower_home.flwr("install", str(bundle), folder=tmp_path, environment=tools)
    operator = flower_home.environment(state / "operator")
    flower_home.flwr("run", str(tmp_path / "hostile"), "center", folder=state, environment=operator)
    wait_for((marks / "center").exists, timeout_s=120.0, told=lambda: federation.log("up"))
    replies = json.loads((marks / "center").read_text())
    assert len(replies) == len(federation.sites)
    assert all("Read-only file system" in reply or "Permission denied" in reply for reply in replies), replies
    assert not (marks / "site").exists()
    for site in federation.sites:
        assert [path.name for path in (federation.home(site) / "flower" / flower_home.APPS).iterdir()] == [
            f"consilium.consilium.0.1.0.{flower_home.app_sha256()[:8]}"
        ]


def write_hostile_app(folder: Path, marks: Path) -> Path:
    (folder / "hostile").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "consilium"\nversion = "0.1.0"\ndescription = "x"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "consilium"\nfab-include = ["hostile/*.py"]\n'
        '[tool.flwr.app.components]\nserverapp = "hostile.center:app"\nclientapp = "hostile.site:app"\n[tool.flwr.app.config]\n'
    )
    (folder / "hostile" / "__init__.py").write_text("")
    (folder / "hostile" / "center.py").write_text(HOSTILE_CENTER.format(mark=str(marks / "center")))
    (folder / "hostile" / "site.py").write_text(HOSTILE_SITE.format(mark=str(marks / "site")))
    flower_home.flwr("build", "--app", str(folder), folder=folder, environment=flower_home.environment(folder / "home"))
    [bundle] = folder.glob("*.fab")
    return bundle


HOSTILE_CENTER = """
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    sent = list(grid.push_messages([Message(RecordDict(), node, "query.who") for node in grid.get_node_ids()]))
    replies, deadline = {{}}, time.monotonic() + 90
    while len(replies) < len(sent) and time.monotonic() < deadline:
        for m in grid.pull_messages(sent):
            replies.setdefault(m.metadata.reply_to_message_id, str(m.error) if m.has_error() else str(m.content))
        time.sleep(1)
    Path("{mark}.partial").write_text(json.dumps(list(replies.values())))
    Path("{mark}.partial").rename("{mark}")
"""
HOSTILE_SITE = """
from pathlib import Path
Path("{mark}").write_text("this ran at a hospital")
from flwr.clientapp import ClientApp
app = ClientApp()
"""


def test_a_revoked_site_is_out_and_told_so(federation: Deployed, hospitals: tuple[Path, dict[str, Path]]) -> None:
    site = list(federation.sites)[-1]
    result = federation.center("revoke-site", federation.federation, site)
    assert result.returncode == 0
    assert "the running center has taken it over" in result.stdout
    federation.await_line(f"join-{site}", "it was revoked, or not approved yet", timeout_s=120.0)
    doctor = federation.site("doctor", federation.kit(site), "--home", federation.home(site))
    assert doctor.returncode == 2
    assert "was revoked" in doctor.stdout
    run = federation.run(hospitals[0], federation.folder / "other")
    assert run.returncode == 2
    assert f"--sites: {site}\n    found:    revoked" in run.stderr


def test_an_orderly_end_leaves_nothing_behind(federation: Deployed) -> None:
    """Last of all: everybody ends, and within their grace."""
    for site in federation.sites:
        assert federation.stop(f"join-{site}") == 0
        assert federation.stop(f"worker-{site}") == 0
    assert federation.stop("up") == 0
    assert "stopped" in federation.log("up")
    started = [p for p in psutil.process_iter() if str(federation.federation) in " ".join(_command(p))]
    assert started == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
