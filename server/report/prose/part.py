"""A heading with its sentences, for the page and for Markdown files."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """``sentences`` read as one paragraph below ``heading``; a part without any is left out."""

    heading: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)


def part(heading: str, *sentences: str | None) -> Part:
    """A part of those ``sentences`` that there are."""
    return Part(heading, tuple(sentence for sentence in sentences if sentence))


def as_markdown(title: str, parts: Iterable[Part]) -> str:
    """The parts as a Markdown document."""
    blocks = [f"# {title}", *(f"## {p.heading}\n\n{p.text}" for p in parts if p.sentences)]
    return "\n\n".join(blocks) + "\n"
