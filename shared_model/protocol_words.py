"""Types that several sections of the protocol use."""

from typing import Annotated

from pydantic import AfterValidator, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


PICTURED = frozenset({"multimodal", "image_only", "late_fusion"})  # kinds of network that look at pictures


def _identifier(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        raise ValueError("letters, digits, '_' and '-' only || rename it")
    return name


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_identifier)]
