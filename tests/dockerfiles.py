"""Dockerfiles read as an engine would read them: for the checks that need none, and to carry out their steps in a folder."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_CONTINUED = re.compile(r"\\\n\s*(?:#[^\n]*\n\s*)*")


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
    """The stage and those it is built from, first things first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]
