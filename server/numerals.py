"""Numbers as both the results document's sentences and the report write them."""


def signed(number: float, digits: int) -> str:
    """``+0.02`` or ``−0.02``, with a true minus sign; what rounds to zero is ``+0.00``."""
    return f"{number:+z.{digits}f}".replace("-", "−")
