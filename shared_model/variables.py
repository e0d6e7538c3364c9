"""The tabular variables of a study: kind, unit, plausible range, categories.

A variable belongs to a *group* (``clinical``, ``serum``, ``genomic`` ...); each group is a modality of the network.
"""

from typing import Literal, Self

from pydantic import model_validator

from shared_model.config_file import Strict

# Units of one quantity, each with the factor to the quantity's first unit.
_QUANTITIES: tuple[dict[str, float], ...] = (
    {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "in": 25.4},
    {"years": 1.0, "months": 1.0 / 12.0, "weeks": 7.0 / 365.25, "days": 1.0 / 365.25},
    {"kg": 1.0, "g": 0.001, "lb": 0.45359237},
    {
        **{"pg/mL": 1.0, "ng/L": 1.0, "ng/dL": 10.0, "ng/mL": 1e3, "ug/L": 1e3, "ug/dL": 1e4},
        **{"ug/mL": 1e6, "mg/L": 1e6, "mg/dL": 1e7, "g/L": 1e9, "g/dL": 1e10},
    },
    {"pmol/L": 1.0, "nmol/L": 1e3, "umol/L": 1e6, "mmol/L": 1e9},
    {"mIU/L": 1.0, "uIU/mL": 1.0, "mIU/mL": 1000.0},
    {"IU/mL": 1.0, "kIU/L": 1.0, "IU/L": 0.001},
    {"fraction": 1.0, "%": 0.01},
    {"mL": 1.0, "cm3": 1.0, "mm3": 0.001, "L": 1000.0},
    {"mmHg": 1.0, "kPa": 7.500616827},
)
# Between mass and amount of substance a factor holds for one substance only: pg/mL in one pmol/L, by protocol variable.
# Calcitonin as Shen et al. 2025 state it (1 pg/mL = 0.292 pmol/L); the others are molar masses / 1000.
_PG_PER_ML_OF_PMOL_PER_L: dict[str, float] = {
    "calcitonin": 1.0 / 0.292,
    "ft3": 0.65097,
    "ft4": 0.77687,
    "cholesterol": 0.38665,
}


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
    factors = _factors(target, variable)
    return factors[source] / factors[target] if source in factors else None


def known_units(target: str, *, variable: str = "") -> tuple[str, ...]:
    """Every unit that ``unit_factor`` can turn into ``target``, ``target`` first."""
    return (target, *(unit for unit in _factors(target, variable) if unit != target))


def _factors(target: str, variable: str) -> dict[str, float]:
    """Every unit of ``target``'s quantity with its factor to one common unit; empty if ``target`` is of no known quantity."""
    mass, amount = (next(units for units in _QUANTITIES if unit in units) for unit in ("pg/mL", "pmol/L"))
    if variable in _PG_PER_ML_OF_PMOL_PER_L and target in {**mass, **amount}:
        return mass | {unit: factor * _PG_PER_ML_OF_PMOL_PER_L[variable] for unit, factor in amount.items()}
    return next((units for units in _QUANTITIES if target in units), {})
