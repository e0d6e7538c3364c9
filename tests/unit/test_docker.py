"""Images and compose files, read without an engine: what a hospital's IT office would look for in them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from client import joining
from client.cli import app as site
from server.center import GRACE_S
from server.cli import app as center
from shared_model.household import STOP_GRACE_S
from tests.dockerfiles import Stage, lineage, read_dockerfile

DOCKER = Path(__file__).parents[2] / "docker"
IMAGES = [("site.Dockerfile", "relay"), ("site.Dockerfile", "worker"), ("center.Dockerfile", "center")]
COMPOSE = sorted(path.name for path in DOCKER.glob("compose.*.yml"))


def stages_of(file: str, stage: str) -> list[Stage]:
    return lineage(read_dockerfile(DOCKER / file), stage)


def services() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (file, name, service)
        for file in COMPOSE
        for name, service in yaml.safe_load((DOCKER / file).read_text())["services"].items()
        if file != "compose.gpu.yml"
    ]


@pytest.mark.parametrize(("file", "stage"), IMAGES)
def test_images_start_from_a_fixed_release_and_do_not_run_as_root(file: str, stage: str) -> None:
    line = stages_of(file, stage)
    assert re.fullmatch(r"python:3\.11-slim-bookworm", line[0].base)
    user = [step.text for part in line for step in part.of("USER")][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize(("file", "stage"), IMAGES)
def test_images_follow_the_rules_of_linters(file: str, stage: str) -> None:
    steps = [step for part in stages_of(file, stage) for step in part.steps]
    assert not [step for step in steps if step.name == "ADD"]
    assert [step.name for step in steps].count("ENTRYPOINT") == 1
    for step in steps:
        if step.name in {"ENTRYPOINT", "CMD", "HEALTHCHECK"}:
            assert step.text.rpartition("CMD ")[2].startswith("["), "exec form, so that signals arrive"
        if step.name == "WORKDIR":
            assert step.text.startswith("/")
        if step.name == "RUN" and "apt-get install" in step.text:
            assert "--no-install-recommends" in step.text
            assert "rm -rf /var/lib/apt/lists/*" in step.text
        if step.name == "RUN" and "pip install" in step.text:
            assert "==" in step.text or "install.sh" in step.text
    assert any(step.name == "HEALTHCHECK" for step in steps)
    copied = [word for step in steps if step.name == "COPY" for word in step.words[:-1]]
    assert not [word for word in copied if word in {".", "./"} or ".env" in word or "tests" in word]


def test_worker_and_center_share_the_layers_of_their_packages() -> None:
    """An engine keeps a layer once if everything before it is the same."""
    worker, center = stages_of("site.Dockerfile", "worker"), stages_of("center.Dockerfile", "center")
    assert worker[:-1] == center[:-1]
    first = worker[-1].steps[0]
    assert first == center[-1].steps[0]
    assert first.text.endswith("/needs/install.sh whole")


def test_a_new_release_replaces_the_last_layer_alone() -> None:
    for stages in (stages_of(file, stage) for file, stage in IMAGES):
        needs, source, *image = stages
        assert not {word for step in needs.of("COPY") for word in step.words} & {"server", "client", "shared_model"}
        assert {word for step in source.of("COPY") for word in step.words} >= {"server", "client", "shared_model"}
        runs = [step.text for stage in image for step in stage.of("RUN")]
        assert [f"from={source.name}" in text for text in runs] == [False] * (len(runs) - 1) + [True]
        assert not [step for stage in image for step in stage.of("COPY")]


@pytest.mark.parametrize("name", ["install.sh", "wheelhouse.sh", "rehearse.sh"])
def test_scripts_are_sound_shell_and_stop_at_the_first_error(name: str) -> None:
    script = DOCKER / name
    subprocess.run(["sh", "-n", str(script)], check=True)
    assert "\nset -eu\n" in script.read_text()
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("called", "app"),
    [(r"(?:^ *center|consilium-center) ", center), (r"(?:-relay\"|-worker\"|consilium-worker) ", site)],
    ids=["center", "site"],
)
def test_the_rehearsal_calls_commands_with_options_that_they_have(called: str, app: typer.Typer) -> None:
    script = (DOCKER / "rehearse.sh").read_text().replace("\\\n", " ")
    lines = [line for line in script.splitlines() if not line.startswith("#") and "--entrypoint" not in line]
    calls = [match for line in lines if (match := re.search(rf"{called} *(\S+)(.*)", line))]
    assert len(calls) >= 3
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    for call in calls:
        command = group.commands[call[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", call[2])) <= known, call[0]


@pytest.mark.parametrize(("file", "name", "service"), services(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_container_is_hardened_and_bounded(file: str, name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "cpus", "pids_limit", "logging"} <= service.keys()
    # Before the engine kills: longer than a relay or a center gives the processes that it ends.
    assert float(service["stop_grace_period"].removesuffix("s")) > max(joining.GRACE_S, GRACE_S) + STOP_GRACE_S
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & service.keys()
    for volume in service["volumes"]:
        assert "docker.sock" not in volume["source"]
        assert volume["type"] == "volume" or volume["read_only"] is True
    assert set(service["build"]) == {"context", "dockerfile"} | ({"target"} if "center" not in name else set())


@pytest.mark.parametrize(("file", "name", "service"), services(), ids=lambda value: value if isinstance(value, str) else "")
def test_who_sees_patients_has_no_network_and_who_has_one_sees_no_patients(
    file: str, name: str, service: dict[str, Any]
) -> None:
    sources = {volume["target"]: volume["source"] for volume in service["volumes"]}
    if name.endswith("worker"):
        assert service["network_mode"] == "none"
        assert not {"ports", "networks"} & service.keys()
    else:
        assert "network_mode" not in service
        assert "/data" not in sources
        assert not any("DATA" in source for source in sources.values())
    assert "ports" not in service or name == "center"


def test_hospitals_of_the_rehearsal_reach_the_center_and_nobody_else() -> None:
    document = yaml.safe_load((DOCKER / "compose.rehearsal.yml").read_text())
    relays = {name: service["networks"] for name, service in document["services"].items() if name.endswith("relay")}
    assert len({network for networks in relays.values() for network in networks}) == len(relays)
    assert all(network["internal"] for network in document["networks"].values())


def test_the_relay_installs_no_torch_and_only_pinned_packages() -> None:
    lines = (DOCKER / "relay-requirements.txt").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    pinned = {line.split("==")[0] for line in (DOCKER.parent / ".ci" / "constraints.txt").read_text().splitlines()}
    assert wanted <= pinned
    assert not {"torch", "torchvision", "pandas", "pydicom", "opacus"} & wanted


@pytest.mark.parametrize("file", COMPOSE)
def test_compose_files_use_declared_volumes_and_networks_only(file: str) -> None:
    document = yaml.safe_load((DOCKER / file).read_text())
    for service in document["services"].values():
        named = {volume["source"] for volume in service.get("volumes", []) if volume["type"] == "volume"}
        assert named <= document.get("volumes", {}).keys()
        assert set(service.get("networks", [])) <= document.get("networks", {}).keys()
