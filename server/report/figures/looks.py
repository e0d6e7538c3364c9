"""How sites look in every figure, and what figures share."""

import textwrap

WIDTH = 4.3  # inches: at this width the lettering can still be read on a telephone


def wrapped(name: str) -> str:
    """A long name on several lines, broken after underscores and hyphens."""
    spaced = name.replace("_", "_ ").replace("-", "- ")
    return "\n".join(line.replace("_ ", "_").replace("- ", "-") for line in textwrap.wrap(spaced, 26, break_on_hyphens=False))
