"""The tabular variables of a study: kind, unit, plausible range, categories.

A variable belongs to a *group* (``clinical``, ``serum``, ``genomic`` ...); each group is a modality of the network.
"""

from typing import Literal, Self

from pydantic import model_validator

from shared_model.config_file import Strict

# Units of one quantity, each with the factor to the quantity's first unit. Molar factors: calcitonin 3.417 pg per pmol
# (paper.md, 1 pg/mL = 0.292 pmol/L), applied only between units of the same row.
_QUANTITIES: tuple[dict[str, float], ...] = (
    {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "in": 25.4},
    {"years": 1.0, "months": 1.0 / 12.0, "days": 1.0 / 365.25},
    {"kg": 1.0, "g": 0.001, "lb": 0.45359237},
    {"pg/mL": 1.0, "ng/L": 1.0, "ng/mL": 1000.0, "ug/L": 1000.0, "ng/dL": 10.0},
    {"mIU/L": 1.0, "uIU/mL": 1.0, "mIU/mL": 1000.0},
    {"IU/mL": 1.0, "kIU/L": 1.0, "IU/L": 0.001},
    {"fraction": 1.0, "%": 0.01},
    {"mL": 1.0, "cm3": 1.0, "mm3": 0.001, "L": 1000.0},
    {"mmHg": 1.0, "kPa": 7.500616827},
)
# Between mass and amount of substance a factor holds for one substance only.
_MOLAR: dict[tuple[str, str, str], float] = {("calcitonin", "pmol/L", "pg/mL"): 1.0 / 0.292}


class Variable(Strict):
    """One variable of the protocol.

    A numeric variable has a ``unit`` and a plausible ``range`` in that unit (values outside count as missing and are
    reported); with ``log`` its natural logarithm enters the network. A categorical one has at least two ``categories``.
    """

    kind: Literal["numeric", "categorical"]
    unit: str | None = None
    range: tuple[float, float] | None = None
    log: bool = False
    categories: tuple[str, ...] = ()
    group: str = "clinical"
    description: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "categorical":
            if len(self.categories) < 2 or len(set(self.categories)) != len(self.categories):
                raise ValueError(
                    "a categorical variable has two or more distinct categories || list them in categories = [...]"
                )
            if self.unit is not None or self.range is not None or self.log:
                raise ValueError('unit, range and log belong to numeric variables || remove them, or set kind = "numeric"')
            return self
        if self.categories:
            raise ValueError('categories belong to categorical variables || remove them, or set kind = "categorical"')
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("a range [low, high] with low < high || swap or mend the two numbers")
        if self.log and (self.range is None or self.range[0] <= 0.0):
            raise ValueError("a logarithm needs a range above zero || give range = [low, high] with low > 0, or remove log")
        return self


def unit_factor(source: str, target: str, *, variable: str = "") -> float | None:
    """Factor that turns a value in ``source`` units into ``target`` units, or None if none is known.

    ``variable`` names the protocol variable; conversions between mass and amount hold for one substance only.

    >>> unit_factor("cm", "mm")
    10.0
    >>> round(unit_factor("pmol/L", "pg/mL", variable="calcitonin"), 3)
    3.425
    """
    if source == target:
        return 1.0
    for quantity in _QUANTITIES:
        if source in quantity and target in quantity:
            return quantity[source] / quantity[target]
    if (variable, source, target) in _MOLAR:
        return _MOLAR[variable, source, target]
    if (variable, target, source) in _MOLAR:
        return 1.0 / _MOLAR[variable, target, source]
    return None


def known_units(target: str, *, variable: str = "") -> tuple[str, ...]:
    """Every unit that ``unit_factor`` can turn into ``target``, ``target`` first."""
    same = [unit for quantity in _QUANTITIES if target in quantity for unit in quantity if unit != target]
    molar = [s for (v, s, t) in _MOLAR if v == variable and t == target] + [
        t for (v, s, t) in _MOLAR if v == variable and s == target
    ]
    return (target, *same, *molar)
