"""Reporting checklists: filled where the software knows, visibly open where the authors have to write."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from server.report.prose import answered

Json = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One item: ``said`` is what this report says of it, in the section ``anchor``; ``open`` what is left to the authors."""

    number: str
    topic: str
    said: str
    anchor: str
    open: str


@dataclass(frozen=True)
class Checklist:
    """A guideline, its source, and its items in order."""

    name: str
    title: str
    source: str
    items: tuple[Item, ...]

    @property
    def answered(self) -> int:
        """Items of which nothing is left open."""
        return sum(not item.open for item in self.items)


def checklists(document: Json) -> list[Checklist]:
    """TRIPOD+AI, and for studies with pictures CLAIM."""
    lists = [
        Checklist(
            "tripod_ai",
            "TRIPOD+AI",
            "Collins et al., BMJ 2024;385:e078378. Numbers are the guideline's, words ours.",
            _filled("tripod_ai", document),
        )
    ]
    if document["protocol"]["images"]:
        source = "Checklist for Artificial Intelligence in Medical Imaging; by subject, in our own words."
        lists.append(Checklist("claim", "CLAIM", source, _filled("claim", document)))
    return lists


def _filled(name: str, document: Json) -> tuple[Item, ...]:
    return tuple(_item(entry, document) for entry in _entries(name))


def _item(entry: dict[str, str], document: Json) -> Item:
    known = getattr(answered, entry["fill"])(document) if "fill" in entry else None
    said, anchor = known or ("", "")
    left = entry.get("open", "" if known else "this run has no answer; write it")
    return Item(entry.get("number", ""), entry["topic"], said, anchor, left)


@cache
def _entries(name: str) -> list[dict[str, str]]:
    text = Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")
    items: list[dict[str, str]] = tomllib.loads(text)["item"]
    return items
