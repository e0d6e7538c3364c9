"""The text of a first ``site.toml``: every key with the evidence for it as a comment above."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.tables import ROW_NUMBER
from client.init.guess import Guess, code_value
from client.init.label import LabelGuess
from client.init.pictures import PictureGuess, relative
from client.init.sources import Source
from shared_model.protocol import StudyProtocol
from shared_model.variables import Variable

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Guesses:
    """All that is written: where a guess is None, nothing in the export spoke for any. ``variables`` holds comparators too."""

    name: str
    cohort: Source
    dictionary: Source | None
    identifier: tuple[str, str]
    label: LabelGuess | None
    variables: Mapping[str, Guess]
    images: PictureGuess | None
    split: Mapping[str, object] | None
    remarks: tuple[str, ...]


def draft(guesses: Guesses, protocol: StudyProtocol, *, base: Path) -> str:
    """The file's text; paths in it are relative to ``base``."""
    return "\n".join([*_lines(guesses, protocol, base), ""])


def toml_value(value: object) -> str:
    """``value`` as TOML writes it in one line.

    >>> toml_value({"codes": {"1": "male", "Größe": True}})
    '{ codes = { 1 = "male", "Größe" = true } }'
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(key))} = {toml_value(entry)}" for key, entry in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(entry) for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(guesses: Guesses, protocol: StudyProtocol, base: Path) -> Iterator[str]:
    yield "# A first draft, written by consilium-site init from the export. Above each line is the evidence for it."
    yield "# Read every line, mend what is wrong, then: consilium-site check"
    yield from (f"# NOTE: {remark}" for remark in guesses.remarks)
    yield from ("", "[site]", f"name = {toml_value(guesses.name)}", "", "[cohort]")
    yield f"table = {toml_value(relative(guesses.cohort.path, base))}"
    yield from _settings(guesses.cohort.settings)
    if guesses.dictionary is not None:
        yield "# has the headings of REDCap's data dictionary"
        yield f"redcap_dictionary = {toml_value(relative(guesses.dictionary.path, base))}"
    column, evidence = guesses.identifier
    yield f"# {evidence}"
    if column == ROW_NUMBER:
        yield "# CHECK: name the identifier if there is one: numbers change with the order of the rows"
    yield f"patient_id = {toml_value(column)}"
    yield from _label(guesses.label, guesses.cohort, protocol)
    yield from _mappings("cohort.variables", protocol.variables, guesses.variables)
    if protocol.ratings:
        yield from _mappings("cohort.comparators", protocol.ratings, guesses.variables)
    yield from _images(guesses.images, protocol, base)
    if guesses.split is not None:
        yield from ("", "[split]", "# a column names the parts")
        yield from (f"{key} = {toml_value(value)}" for key, value in guesses.split.items())


def _mappings(section: str, wanted: Mapping[str, Variable], guesses: Mapping[str, Guess]) -> Iterator[str]:
    yield from ("", f"[{section}]")
    for name, variable in wanted.items():
        if (guess := guesses.get(name)) is not None:
            yield f"# {guess.evidence}"
            yield from (f"# CHECK: {doubt}" for doubt in guess.doubts)
            yield f"{_key(name)} = {toml_value(guess.settings)}"
        else:
            yield f"# {name}: no column found; add it if the export has one: {_example(name, variable)}"


def _settings(settings: Mapping[str, tuple[object, str]]) -> Iterator[str]:
    for key, (value, evidence) in settings.items():
        yield f"# {evidence}"
        yield f"{key} = {toml_value(value)}"


def _label(label: LabelGuess | None, cohort: Source, protocol: StudyProtocol) -> Iterator[str]:
    if label is None:
        yield f"# CHECK: no column was recognised as the outcome: {protocol.study.outcome}"
        yield f"# columns: {', '.join(cohort.table.columns)}"
        yield 'label = { column = "NAME THE COLUMN", positive = [1], negative = [0] }'
        return
    yield f"# {label.evidence}" + (f" (or is it one of: {', '.join(label.others)}?)" if label.others else "")
    yield f"# CHECK that positive means: {protocol.study.outcome}"
    if label.ignore:
        yield "# CHECK: patients with the codes in ignore are left out, for these may be either"
    codes: dict[str, object] = {"column": label.column}
    codes |= {side: _codes(getattr(label, side)) for side in ("positive", "negative", "ignore") if getattr(label, side)}
    yield f"label = {toml_value(codes)}"


def _images(guess: PictureGuess | None, protocol: StudyProtocol, base: Path) -> Iterator[str]:
    if protocol.images is None:
        return
    if guess is None:
        yield from (
            "",
            "# The study uses images, and no table of picture files was found. A table with one row a picture is needed:",
        )
        yield from ("# [images]", '# table = "images.csv"', '# patient_id = "..."', '# file = "..."')
        yield f'# view = {{ all = "{next(iter(protocol.images.views))}" }}'
        return
    yield from ("", "[images]")
    if guess.source is not None:
        yield f"table = {toml_value(relative(guess.source.path, base))}"
        yield from _settings(guess.source.settings)
    yield from _settings(guess.settings)


def _codes(cells: Sequence[str]) -> list[object]:
    return [code_value(cell) for cell in cells]


def _example(name: str, variable: Variable) -> str:
    if variable.kind == "numeric":
        unit = f', unit = "{variable.unit}"' if variable.unit else ""
        return f'{name} = {{ column = "..."{unit} }}'
    return f'{name} = {{ column = "...", codes = {{ ... = "{variable.categories[0]}" }} }}'


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)
