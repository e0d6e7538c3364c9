"""Read a TOML file into a strict pydantic model and report every fault of it at once."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

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
        raise ConfigurationError([_fault(dict(detail), where) for detail in error.errors()]) from None


def expand(text: str) -> tuple[str, list[str]]:
    """Replace ``${NAME}`` by the environment; also return the names that are not set."""
    unset = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text), unset


def _fault(detail: dict[str, Any], where: str) -> Fault:
    key = ".".join(str(part) for part in detail["loc"])
    context = detail.get("ctx", {})
    kind = detail["type"]
    found = _short(detail["input"])
    if kind == "extra_forbidden":
        return Fault(
            where, key, f"unknown key (value {found})", "one of the keys the README lists", "check its spelling or remove it"
        )
    if kind == "missing":
        return Fault(where, key, "nothing", "this key is required", f"add {key.split('.')[-1]} = ...")
    if kind in {"value_error", "assertion_error"}:
        message, _, remedy = str(context.get("error", detail["msg"])).partition(" || ")
        return Fault(where, key, found, message, remedy or "change the value accordingly")
    expected = detail["msg"].removeprefix("Input should be ")
    return Fault(where, key, found, expected, "change the value accordingly")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
