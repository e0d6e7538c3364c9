"""Dockerfiles read as an engine would read them: for the checks that need none, and to carry out their steps in a folder."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType

# How this machine reaches its package index; what names folders of this machine is left out.
PACKAGE_INDEX = {name: os.environ[name] for name in ("PIP_CERT", "PIP_INDEX_URL", "HTTPS_PROXY") if name in os.environ}
CHROOT = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin") or "chroot"
_CONTINUED = re.compile(r"\\\n\s*(?:#[^\n]*\n\s*)*")
# A stage's folder under the very path that it has there: all that these Dockerfiles mount.
_MOUNT = re.compile(r"--mount=type=bind,from=(\w+),source=(/\w+),target=\2(?:,rw)?\s+")


@cache
def materials() -> ModuleType:
    """``docker/materials.py``, which is a script beside the images and in no package."""
    file = Path(__file__).parents[1] / "docker" / "materials.py"
    spec = importlib.util.spec_from_file_location("materials", file)
    assert spec
    assert spec.loader
    module = sys.modules["materials"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Step:
    """One instruction, e.g. ``RUN``, with the rest of its line."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments, of the exec form (a JSON list) or as a shell splits them."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """One build stage: what it starts from, and its steps."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def of(self, name: str) -> list[Step]:
        """Its steps of one kind."""
        return [step for step in self.steps if step.name == name]

    @property
    def mounts(self) -> dict[str, str]:
        """Folders that it has only while it is built, by the stage that they are of."""
        return {stage: folder for step in self.of("RUN") for stage, folder in _MOUNT.findall(step.text)}


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """Stages by name, in order; one without a name goes by its number."""
    text = _CONTINUED.sub(" ", path.read_text(encoding="utf-8"))
    stages: dict[str, Stage] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            base, *alias = re.split(r"\s+AS\s+", rest)
            current = Stage(alias[0] if alias else str(len(stages)), base)
            stages[current.name] = current
        else:
            current.steps.append(Step(name, rest))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stage, those it mounts while it is built, and those it is built from; first things first."""
    stage = stages[name]
    return [*(stages[other] for other in stage.mounts), *(lineage(stages, stage.base) if stage.base in stages else []), stage]


def carry_out(stages: list[Stage], *, context: Path, root: Path) -> dict[str, str]:
    """Carry out the steps of ``stages`` in ``root``, a folder with a Debian and a Python; returns the environment at the end.

    What an engine would do as root of the image is done by ``chroot``; so this needs to be root of the machine. A stage that
    is mounted is carried out in ``root`` as well, and its folder is removed at the end.
    """
    environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root", **PACKAGE_INDEX}
    folder = "/"
    for step in (step for stage in stages for step in stage.steps):
        if step.name == "ENV":
            environment |= dict(word.split("=", 1) for word in step.words)
        elif step.name == "WORKDIR":
            folder = step.text
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            _copy(step.words, context, root, folder)
        elif step.name == "RUN":
            run_in(root, ["sh", "-c", f"cd {folder} && {_MOUNT.sub('', step.text)}"], environment)
    for mounted in {mounted for stage in stages for mounted in stage.mounts.values()}:
        shutil.rmtree(root / mounted.lstrip("/"))
    return environment


def carry_copies(stages: list[Stage], *, context: Path, root: Path) -> None:
    """Carry out the steps of ``stages`` that copy files into ``root``, and no other."""
    folder = "/"
    for step in (step for stage in stages for step in stage.steps):
        if step.name == "WORKDIR":
            folder = step.text
        elif step.name == "COPY":
            _copy(step.words, context, root, folder)


def run_in(root: Path, command: list[str], environment: dict[str, str], *, user: str = "0:0") -> str:
    """Run ``command`` in ``root`` and return what it printed."""
    done = subprocess.run(
        [CHROOT, f"--userspec={user}", str(root), *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _copy(words: list[str], context: Path, root: Path, folder: str) -> None:
    *sources, target = words
    place = root / str(PurePosixPath(folder) / target).lstrip("/")
    for source in (found for pattern in sources for found in sorted(context.glob(pattern))):
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
