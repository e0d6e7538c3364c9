"""Contributions to a risk in plain words."""

import math
from dataclasses import dataclass

SLIGHT = 0.05  # logits: below, a finding is said to make no difference


@dataclass(frozen=True)
class Contribution:
    """What one finding does to the patient's log odds; ``value`` in words, None where it was not measured. ``width`` of its
    bar, 0..1 of the largest."""

    name: str
    value: str | None
    logits: float
    width: float = 0.0

    @property
    def label(self) -> str:
        """``tumour size 23 mm``, ``BRAF: not measured``."""
        name = self.name.replace("_", " ")
        return f"{name}: {self.value}" if self.value is not None else f"{name}: not measured"

    @property
    def effect(self) -> str:
        """How it changes the odds."""
        return odds(self.logits)


def odds(logits: float) -> str:
    """A contribution as a factor on the odds.

    >>> odds(0.7), odds(-0.7), odds(0.01)
    ('odds × 2.0', 'odds ÷ 2.0', 'no difference')
    """
    if abs(logits) < SLIGHT:
        return "no difference"
    factor = math.exp(abs(logits))
    shown = f"{factor:.1f}" if factor < 9.95 else f"{factor:.0f}"
    return f"odds {'×' if logits > 0.0 else '÷'} {shown}"


def chance(probability: float) -> str:
    """A probability for people: whole percent, but never 0 % or 100 %.

    >>> chance(0.003), chance(0.246), chance(0.999)
    ('less than 1 %', '25 %', 'more than 99 %')
    """
    if probability < 0.005:
        return "less than 1 %"
    if probability >= 0.995:
        return "more than 99 %"
    return f"{100.0 * probability:.0f} %"


def listing(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def sentence(contributions: list[Contribution]) -> str:
    """Which findings speak most for and against the outcome."""
    raising = [c for c in contributions if c.logits >= SLIGHT][:3]
    lowering = [c for c in contributions if c.logits <= -SLIGHT][:3]
    said = []
    if raising:
        said.append(f"Raised most by {listing([f'{c.label} ({c.effect})' for c in raising])}.")
    if lowering:
        said.append(f"Lowered most by {listing([f'{c.label} ({c.effect})' for c in lowering])}.")
    return " ".join(said) or "No single finding makes much difference."
