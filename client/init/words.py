"""Names that people give to the same thing: the synonyms of ``synonyms.toml``, and how alike two names are."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from client.cohort.redcap import simplified

_SYNONYMS = tomllib.loads(files("client.init").joinpath("synonyms.toml").read_text(encoding="utf-8"))

MISSING = frozenset(_SYNONYMS["missing"]["spellings"])
SENTINELS: tuple[int, ...] = tuple(_SYNONYMS["missing"]["sentinels"])
IDENTIFIERS: tuple[str, ...] = tuple(_SYNONYMS["identifier"]["words"])
LABELS: tuple[str, ...] = tuple(_SYNONYMS["label"]["words"])
SPLITS: tuple[str, ...] = tuple(_SYNONYMS["split"]["words"])
BOXES: tuple[tuple[str, ...], ...] = tuple(map(tuple, _SYNONYMS["boxes"]["corners"]))

_ALIKE = 0.8


def names_of(variable: str) -> tuple[str, ...]:
    """The name of a variable and its synonyms."""
    return (variable, *_SYNONYMS["variables"].get(variable, ()))


def values_of(category: str) -> tuple[str, ...]:
    """The name of a category and its synonyms."""
    return (category, *_SYNONYMS["values"].get(category, ()))


def usual_codes(variable: str, cells: Sequence[str]) -> Mapping[str, str] | None:
    """What numbers mean by a standard, if ``cells`` are these numbers only: sex is 1 and 2 in ISO/IEC 5218."""
    codes: Mapping[str, str] = _SYNONYMS["codes"].get(variable, {})
    return codes if codes and set(cells) <= set(codes) else None


def means_missing(text: str) -> bool:
    """Whether a cell, or the label of a code, says that there is no value: ``[Not Available]``."""
    return text.casefold().strip("[]<>() ") in MISSING


def values_of_view(view: str) -> tuple[str, ...]:
    """The name of a view and the codes in use for it."""
    return (view, *(code for kind, codes in _SYNONYMS["views"].items() if kind in view for code in codes))


def tokens(text: str) -> list[str]:
    """Words of a name, folded: ``"Max diameter (mm)"`` -> max, diameter, mm."""
    return simplified(text).split("_") if simplified(text) else []


def likeness(name: str, known: Iterable[str]) -> tuple[float, str]:
    """How alike ``name`` is to the nearest of ``known``, 0..1, and which that is.

    1 where they are the same words, 0.6 to 0.9 where all words of one are among the words of ``name`` (the more, the
    fewer other words there are), less where the spelling is close.
    """
    words = tokens(name)
    best, nearest = 0.0, ""
    for other in known:
        theirs = tokens(other)
        if not words or not theirs:
            continue
        if words == theirs:
            score = 1.0
        elif set(theirs) <= set(words):
            score = 0.6 + 0.3 * len(theirs) / len(words)
        else:
            ratio = difflib.SequenceMatcher(None, "".join(words), "".join(theirs)).ratio()
            score = 0.7 * ratio if ratio >= _ALIKE and min(len(name), len(other)) > 3 else 0.0
        if score > best:
            best, nearest = score, other
    return best, nearest
