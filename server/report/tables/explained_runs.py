"""Why the models of several runs say what they say, side by side: with and without differential privacy, say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, absent, count, estimate, number, table, words
from server.results.explained import ranks_alike

Json = dict[str, Any]


def build(explanations: Mapping[str, Json | None]) -> Iterator[Table | None]:
    """``explained_modalities`` and ``explained_variables``, of the runs' ``explanation`` by label; nothing if none has one."""
    found = list(explanations.values())
    of = tuple(Column(f"run{i}", label) for i, label in enumerate(explanations))
    yield _modalities(found, of)
    yield _variables(found, of)


def _modalities(found: Sequence[Json | None], of: tuple[Column, ...]) -> Table | None:
    names = dict.fromkeys(name for one in found if one for name in one["modality_share"])
    if not names:
        return None
    rows = [Row((words(name), *(_share(one, name) for one in found))) for name in names]
    rows += [
        Row((words("Patients explained"), *(count(round(one["patients"])) if one else _none() for one in found)), total=True),
        Row((words("Epsilon of the training"), *(_epsilon(one, "training_epsilon") for one in found)), total=True),
        Row((words("Epsilon of the explanation"), *(_epsilon(one, "noise") for one in found)), total=True),
    ]
    caption = "Share of each kind of information in what moves the model, all sites together."
    return table("explained_modalities", caption, (Column("modality", "Information", left=True), *of), rows)


def _variables(found: Sequence[Json | None], of: tuple[Column, ...]) -> Table | None:
    sizes = [{row["name"]: row["mean_absolute"] for row in one["variables"]} if one else {} for one in found]
    names = dict.fromkeys(name for own in sizes for name in own)
    if not names:
        return None
    rows = [
        Row((words(name.replace("_", " ")), *(number(own[name], 3) if name in own else _none() for own in sizes)))
        for name in names
    ]
    agreement = (_agreement(sizes[0], own) for own in sizes[1:])
    rows.append(Row((words("Rank correlation with the first run"), absent(""), *agreement), total=True))
    caption = "Mean size of each variable's contribution, log odds. The order is the first run's."
    return table("explained_variables", caption, (Column("variable", "Variable", left=True), *of), rows)


def _share(one: Json | None, name: str) -> Cell:
    return estimate(one["modality_share"].get(name), why="not in this run") if one else _none()


def _epsilon(one: Json | None, key: str) -> Cell:
    if one is None:
        return _none()
    value = one[key]["epsilon"] if isinstance(one[key], dict) else one[key]
    return words("none") if value is None else Cell(f"{value:g}", "", {"": value})


def _agreement(first: Mapping[str, float], other: Mapping[str, float]) -> Cell:
    names = [name for name in first if name in other]
    if len(names) < 3:
        return absent("fewer than three variables in common")
    if any(len({sizes[name] for name in names}) == 1 for sizes in (first, other)):
        return absent("one of the two is the same for all variables")
    return number(ranks_alike(first, other))


def _none() -> Cell:
    return absent("not in this run")
