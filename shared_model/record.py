"""What every record that crosses the network is made from."""

from dataclasses import dataclass

from pydantic import ConfigDict


class Record:
    """Base of everything that crosses the network: decoded strictly, no unknown keys, every number finite."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Estimate(Record):
    """A number with its 95 % interval and how the interval was made; ``None`` bounds where no interval can be had."""

    value: float
    low: float | None
    high: float | None
    method: str
