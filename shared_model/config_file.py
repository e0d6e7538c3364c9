"""Read a TOML file into a strict pydantic model and report every fault of it at once."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from shared_model.errors import ConfigurationError, Fault

Model = TypeVar("Model", bound=BaseModel)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Strict(BaseModel):
    """Base of every configuration record: frozen, unknown keys are errors, no silent type coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse ``path`` as TOML.

    Raises:
        ConfigurationError: the file is missing, unreadable, or no valid TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        fault = Fault(str(path), "", "no such file", "a TOML file", "check the path, or the folder you are in")
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(str(path), "", str(error), "a readable UTF-8 text file", "check its permissions and encoding")
    except tomllib.TOMLDecodeError as error:
        fault = Fault(str(path), "", str(error), "valid TOML", "mend the line named; strings need double quotes")
    raise ConfigurationError([fault])


def load(path: Path, model: type[Model]) -> Model:
    """Read and validate ``path`` as ``model``.

    Raises:
        ConfigurationError: with one fault for each thing wrong with the file.
    """
    return validate(read_toml(path), model, where=str(path))


def validate(document: Mapping[str, Any], model: type[Model], *, where: str) -> Model:
    """Validate a parsed document as ``model``; ``where`` names its file in the faults.

    Raises:
        ConfigurationError: with one fault for each thing wrong with the document.
    """
    # By way of JSON: strict about types, yet a list may fill a tuple and a string an enumeration.
    return validate_json(json.dumps(document, default=str), model, where=where)


def validate_json(text: str, model: type[Model], *, where: str) -> Model:
    """Validate a JSON document as ``model``; ``where`` says in the faults where it came from.

    Raises:
        ConfigurationError: with one fault for each thing wrong with the document.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        document = _parsed(text)
        problems = [_Problem.of(dict(detail), document) for detail in error.errors()]
        raise ConfigurationError([_fault(group, model, where) for group in _by_key(problems)]) from None


def _parsed(text: str) -> Mapping[str, Any]:
    """The document in ``text``, empty where it is no JSON object."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def expand(text: str) -> tuple[str, list[str]]:
    """Replace ``${NAME}`` by the environment; also return the names that are not set."""
    unset = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text), unset


def did_you_mean(word: str, options: Iterable[str], *, otherwise: str = "check its spelling") -> str:
    """The remedy for a misspelt ``word``: the nearest of ``options``, or ``otherwise`` if none is near.

    >>> did_you_mean("colum", ["column", "unit"])
    'did you mean "column"?'
    """
    spellings = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(word.casefold(), spellings, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(quoted(spellings[match]) for match in near)}?" if near else otherwise


def quoted(text: str) -> str:
    """``text`` in the double quotes that TOML wants."""
    return f'"{text}"'


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic's. ``alternative`` marks one of several errors of a value that fits no member of a union."""

    key: tuple[str | int, ...]
    kind: str
    message: str
    found: object
    cause: str
    alternative: bool

    @classmethod
    def of(cls, detail: dict[str, Any], document: object) -> "_Problem":
        key, alternative = _key_in(document, detail["loc"], missing=detail["type"] == "missing")
        cause = str(detail.get("ctx", {}).get("error", detail["msg"]))
        return cls(key, detail["type"], detail["msg"], detail["input"], cause, alternative)


def _key_in(document: Any, loc: tuple[str | int, ...], *, missing: bool) -> tuple[tuple[str | int, ...], bool]:
    """The part of ``loc`` that is in ``document``: pydantic adds the names of the members of a union."""
    key: list[str | int] = []
    for place, part in enumerate(loc):
        held = range(len(document)) if isinstance(document, list) else document
        if isinstance(held, Mapping | range) and part in held:
            document = document[part]
        elif not (missing and place == len(loc) - 1):
            continue
        key.append(part)
    return tuple(key), len(key) < len([part for part in loc if part != "[key]"])


def _by_key(problems: list[_Problem]) -> Iterator[list[_Problem]]:
    """Problems grouped by key. Of a union, only what was found deepest in the value explains it."""
    groups: dict[tuple[str | int, ...], list[_Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.key, []).append(problem)
    for key, group in groups.items():
        explained = any(other != key and other[: len(key)] == key and groups[other][0].alternative for other in groups)
        if not (group[0].alternative and explained):
            yield group


def _fault(group: list[_Problem], model: type[BaseModel], where: str) -> Fault:
    first = group[0]
    key = ".".join(str(part) for part in first.key)
    found = _short(first.found)
    if first.kind == "extra_forbidden":
        known = _keys_of(model, first.key[:-1])
        remedy = did_you_mean(str(first.key[-1]), known, otherwise="remove it, or check its spelling")
        return Fault(where, key, f"unknown key (value {found})", "one of the keys " + ", ".join(known), remedy)
    if first.kind == "missing":
        return Fault(where, key, "nothing", "this key is required", f"add {first.key[-1]} = ...")
    if first.kind in {"value_error", "assertion_error"}:
        message, _, remedy = first.cause.partition(" || ")
        return Fault(where, key, found, message, remedy or "change the value accordingly")
    expected = " or ".join(dict.fromkeys(problem.message.removeprefix("Input should be ") for problem in group))
    options = re.findall(r"'([^']*)'", expected) if first.kind == "literal_error" else []
    return Fault(where, key, found, expected, did_you_mean(str(first.found), options, otherwise="change the value accordingly"))


def _keys_of(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the record at ``path`` of ``model`` may have."""
    annotations: list[Any] = [model]
    for part in path:
        annotations = [inner for annotation in annotations for inner in _inside(annotation, part)]
    records = [member for annotation in annotations for member in _members(annotation) if _is_record(member)]
    return [field.alias or name for record in records for name, field in record.model_fields.items()]


def _inside(annotation: Any, part: str | int) -> Iterator[Any]:
    for member in _members(annotation):
        if _is_record(member):
            yield from (field.annotation for name, field in member.model_fields.items() if part in {name, field.alias})
        elif get_origin(member) is dict:
            yield get_args(member)[1]
        elif get_origin(member) is tuple:
            yield get_args(member)[0]


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in {Union, UnionType}:
        for member in get_args(annotation):
            yield from _members(member)
    elif get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
