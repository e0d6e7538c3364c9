"""The place of a picture, written as a column or as a pattern over columns: ``"Masks/mask_{ID[4:]}.png"``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

_FIELD = re.compile(r"\{([^{}\[\]]+)(?:\[(-?[0-9]*):(-?[0-9]*)\])?\}")


@dataclass(frozen=True)
class _Field:
    column: str
    part: slice


@dataclass(frozen=True)
class FilePattern:
    """Literal text and cells in turn. Only columns and plain slices of them: a pattern is data, never evaluated."""

    pieces: tuple[str | _Field, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``text``: a column's name, or a pattern if it holds braces.

        Raises:
            ValueError: braces that hold no column or ``column[start:stop]``.
        """
        if "{" not in text and "}" not in text:
            return cls((_Field(text, slice(None)),))
        pieces: list[str | _Field] = []
        end = 0
        for match in _FIELD.finditer(text):
            start, stop = (int(bound) if bound else None for bound in match.group(2, 3))
            pieces += [text[end : match.start()], _Field(match[1], slice(start, stop))]
            end = match.end()
        pieces.append(text[end:])
        if any("{" in piece or "}" in piece for piece in pieces if isinstance(piece, str)):
            raise ValueError("braces hold a column, or a part of it: {ID} or {ID[4:]}")
        return cls(tuple(pieces))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the pattern takes cells of."""
        return tuple(piece.column for piece in self.pieces if isinstance(piece, _Field))

    def expand(self, row: Mapping[str, str]) -> str:
        """The place for one row, ``""`` if a cell that it needs is missing.

        >>> FilePattern.parse("Masks/mask_{ID[4:]}.png").expand({"ID": "bus_0001-l"})
        'Masks/mask_0001-l.png'
        """
        if not all(row[column] for column in self.columns):
            return ""
        return "".join(piece if isinstance(piece, str) else row[piece.column][piece.part] for piece in self.pieces)
