"""Is a column in the unit that ``site.toml`` says? Judged by where its median lies in the protocol's plausible range."""

import math

from client.cohort.findings import VariableFinding
from shared_model.variables import Variable, known_units, unit_factor

# A median is expected in the middle of a range, on a logarithmic scale: ranges are drawn round what is seen.
_MIDDLE = (0.35, 0.75)
_WIDE = 50.0  # high / low: in a narrower range a wrong unit leaves the range, and is told as such


def likelier_unit(name: str, finding: VariableFinding, variable: Variable) -> str | None:
    """The unit that the column seems to be in, if that is another than the one stated; None if there is no reason to doubt.

    A tumour size whose median is 0.7 mm, with sizes of 0.1 to 150 mm plausible, is 7 mm written in centimetres.
    """
    if finding.median is None or finding.unit is None or variable.unit is None or variable.range is None:
        return None
    low, high = variable.range
    if low <= 0.0 or high < _WIDE * low or finding.median <= 0.0:
        return None

    def place(value: float) -> float:
        return math.log(value / low) / math.log(high / low)

    if _MIDDLE[0] <= place(finding.median) <= _MIDDLE[1]:
        return None
    units = [unit for unit in known_units(variable.unit, variable=name) if unit != finding.unit]
    places = {
        unit: place(finding.median / finding.factor * (unit_factor(unit, variable.unit, variable=name) or 1.0))
        for unit in units
    }
    likely = [unit for unit, found in places.items() if _MIDDLE[0] <= found <= _MIDDLE[1]]
    return min(likely, key=lambda unit: abs(places[unit] - 0.5), default=None)
