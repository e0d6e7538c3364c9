"""Which column is which variable: by its header, its unit and its values. Every guess carries its evidence."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from client.cohort.findings import VariableFinding
from client.cohort.redcap import simplified
from client.cohort.tables import Table, number
from client.cohort.units import likelier_unit
from client.init.words import SENTINELS, likeness, means_missing, names_of, tokens, usual_codes, values_of
from client.site_config import Scalar, canonical_code
from shared_model.variables import Variable, known_units, unit_factor

_NAME, _VALUES = 0.7, 0.3  # weights of the two kinds of evidence
_LIKELY_NAME = 0.5
_SYNONYM = 0.95  # a variable's own name goes before a synonym of another's
_LIKELY_VALUES = 0.5
_DOUBT = 0.001  # of two titles of a column, the one that leaves less open
_MOST_CODES = 40
_SHORTEST_START = 3  # letters that a code and a category must share at the beginning


@dataclass(frozen=True)
class Guess:
    """A column for a variable; ``score`` 0..1, ``settings`` the keys of its mapping, ``doubts`` what to look at."""

    variable: str
    column: str
    score: float
    settings: Mapping[str, object]
    evidence: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Codes:
    """How the cells of a column fit a list of categories; ``share`` of the cells that do."""

    share: float
    codes: dict[str, str]
    unmapped: dict[str, int] = field(default_factory=dict)
    ordered: bool = False

    @property
    def needed(self) -> bool:
        """Whether the cells are other than the categories themselves."""
        return any(code != category for code, category in self.codes.items())


@dataclass(frozen=True)
class Named:
    """A column, the ``title`` by which it is looked at, its own or a data dictionary's, and what the dictionary says of it."""

    column: str
    title: str
    told: str

    def alike(self, variable: str, synonym: str) -> str:
        """In words: that the title is like ``synonym``, a name of ``variable``."""
        title = f'"{self.title}"' if self.title == self.column else f'its label "{self.title}"'
        if simplified(self.title) == simplified(variable):
            return f"{title} is the variable's name"
        if simplified(self.title) == simplified(synonym):
            return f"{title} is another name for {variable}"
        return f'{title} is named like "{synonym}"' + (f", another name for {variable}" if synonym != variable else "")


def guess_variables(
    table: Table,
    variables: Mapping[str, Variable],
    *,
    decimal: str,
    taken: set[str],
    titles: Mapping[str, str] | None = None,
) -> dict[str, Guess]:
    """The likeliest column for each variable, each column once, the surest first; ``taken`` columns are left alone.

    ``titles`` are what a data dictionary calls a column, beside its name.
    """
    candidates = [
        guess
        for name, variable in variables.items()
        for column in table.columns
        if column not in taken and column not in table.repeated
        for title in dict.fromkeys([column, (titles or {}).get(column, column)])
        for guess in _guesses(name, variable, Named(column, title, (titles or {}).get(column, "")), table, decimal)
    ]
    found: dict[str, Guess] = {}
    used: set[str] = set()
    for guess in sorted(candidates, key=lambda guess: -guess.score):
        if guess.variable not in found and guess.column not in used:
            found[guess.variable] = guess
            used.add(guess.column)
    return {name: found[name] for name in variables if name in found}


def match_codes(cells: Sequence[str], names: Mapping[str, tuple[str, ...]], labels: Mapping[str, str] | None = None) -> Codes:
    """Which category each distinct cell means; ``names`` maps a category to its synonyms, ``labels`` codes to labels."""
    counts = Counter(cell for cell in cells if cell)
    if not counts or len(counts) > _MOST_CODES:
        return Codes(0.0, {})
    # A code book says what codes mean that no patient has.
    meant = {cell: _category(_label(cell, labels), names) for cell in {**(labels or {}), **counts}}
    ordered = False
    # Among numbers a synonym proves nothing: 0 is "none", and 0, 1, 2 are the categories in their order.
    by_order = _by_order(list(counts), list(names)) if not labels else None
    if by_order is not None and not all(meant.values()):
        meant, ordered = dict(by_order), True
    codes = {cell: category for cell in sorted(meant) if (category := meant[cell]) is not None}
    share = sum(counts[cell] for cell in codes) / counts.total()
    unmapped = {cell: count for cell, count in counts.most_common() if meant[cell] is None}
    return Codes(share, codes, unmapped, ordered)


def _guesses(name: str, variable: Variable, named: Named, table: Table, decimal: str) -> Iterator[Guess]:
    column = named.column
    likely, synonym = likeness(_without_unit(named.title, variable, name), names_of(name))
    if likely < _LIKELY_NAME:
        return
    likely *= 1.0 if synonym == name else _SYNONYM
    cells = [cell for cell in table.columns[column] if cell]
    if not cells:
        return
    explained = table.choices.get(column, {})
    alike = named.alike(name, synonym)
    if variable.kind == "categorical":
        absent = {code: label for code, label in explained.items() if means_missing(label)}
        cells = [cell for cell in cells if canonical_code(cell) not in absent]
        usual = {} if explained else usual_codes(name, cells)
        labels = {code: label for code, label in explained.items() if code not in absent} or usual
        names = {category: values_of(category) for category in variable.categories}
        codes = _indicator(column, cells, variable) or match_codes(cells, names, labels)
        if codes.share >= _LIKELY_VALUES:
            yield _category_guess(name, column, likely, alike, codes, absent=absent, by_standard=bool(usual))
        return
    numbers = [value for cell in cells if (value := number(cell, decimal=decimal)) is not None]
    share = len(numbers) / len(cells)
    if share >= _LIKELY_VALUES:
        settings, doubts, plausible, why = _number_settings(name, variable, named, numbers, absent=_absent(table))
        if share < 1.0:
            doubts.append(f"{1.0 - share:.0%} of its cells are no numbers")
        score = _NAME * likely + _VALUES * plausible * share - _DOUBT * len(doubts)
        yield Guess(name, column, score, settings, f"{alike}{why}", tuple(doubts))


def _indicator(column: str, cells: Sequence[str], variable: Variable) -> Codes | None:
    """A column named as one of two categories, that says whether it is this one: ``male`` = true."""
    if len(variable.categories) != 2:
        return None
    asked = [category for category in variable.categories if simplified(column) == simplified(category)]
    truth = match_codes(cells, {"yes": values_of("yes"), "no": values_of("no")})
    if not asked or truth.share < _LIKELY_VALUES:
        return None
    (other,) = set(variable.categories) - set(asked)
    return Codes(
        truth.share, {code: asked[0] if said == "yes" else other for code, said in truth.codes.items()}, truth.unmapped
    )


def _absent(table: Table) -> dict[str, str]:
    """Codes that a data dictionary explains, in any of the fields, as a value that is missing, with their labels."""
    explained = (pair for choices in table.choices.values() for pair in choices.items())
    return {code: label for code, label in explained if means_missing(label)}


def _category_guess(
    name: str, column: str, likely: float, alike: str, codes: Codes, *, absent: Mapping[str, str], by_standard: bool
) -> Guess:
    settings: dict[str, object] = {"column": column}
    doubts = []
    if codes.needed:
        settings["codes"] = codes.codes
    if absent:
        settings["missing"] = [code_value(code) for code in absent]
    if by_standard:
        doubts.append("1 and 2 are read as ISO/IEC 5218 has them: check them with the code book")
    if codes.ordered:
        doubts.append("the codes are taken in the order of the categories: check them with the code book")
    if codes.unmapped:
        seen = ", ".join(f'"{cell}" ({count})' for cell, count in list(codes.unmapped.items())[:8])
        doubts.append(f"not mapped, so missing: {seen}")
    evidence = f"{alike}; {codes.share:.0%} of its values are categories of the study{_called_missing(absent)}"
    return Guess(name, column, _NAME * likely + _VALUES * codes.share, settings, evidence, tuple(doubts))


def _called_missing(absent: Mapping[str, str]) -> str:
    return "".join(f'; {code} is "{label}" in the data dictionary' for code, label in absent.items())


def _number_settings(
    name: str, variable: Variable, named: Named, numbers: list[float], *, absent: Mapping[str, str]
) -> tuple[dict[str, object], list[str], float, str]:
    """The keys of a numeric mapping, doubts about them, the share of plausible values, and the evidence in words.

    ``absent`` are codes that mean a missing value in other columns.
    """
    settings: dict[str, object] = {"column": named.column}
    doubts = []
    unit, why, certain = _unit(name, variable, named, [value for value in numbers if value not in SENTINELS] or numbers)
    if unit is not None:
        settings["unit"] = unit
    if not certain:
        doubts.append(f"the unit is a guess: {unit}")
    factor = (unit_factor(unit, variable.unit, variable=name) or 1.0) if unit and variable.unit else 1.0
    missing = {value for value in numbers if value in SENTINELS and not _plausible([value], factor, variable)}
    numbers = [value for value in numbers if value not in missing] or numbers
    plausible = _plausible(numbers, factor, variable)
    if missing:
        codes = sorted(map(int, missing))
        settings["missing"] = codes
        known = {str(code): absent[str(code)] for code in codes if str(code) in absent}
        why += _called_missing(known)
        if len(known) < len(missing):
            doubts.append("taken as missing because no such value is plausible")
    middle = f"{median(numbers) * factor:.3g} {variable.unit or ''}".strip()
    limits = f" in {variable.range[0]:g}..{variable.range[1]:g}" if variable.range else " numbers"
    return settings, doubts, plausible, f"{why}; {plausible:.0%} of values{limits}, median {middle}"


def _unit(name: str, variable: Variable, named: Named, numbers: list[float]) -> tuple[str | None, str, bool]:
    """The unit that is stated, or else the one in which the values are plausible; why, and whether no other would do."""
    if variable.unit is None:
        return None, "", True
    units = known_units(variable.unit, variable=name)
    for text, place in ((named.column, "header"), (named.told, "data dictionary")):
        if (stated := _unit_in(text, units)) is not None:
            return stated, f"; {stated} is in the {place}", True
    factors = {unit: unit_factor(unit, variable.unit, variable=name) or 1.0 for unit in units}

    def fits(unit: str) -> tuple[float, bool]:
        finding = VariableFinding(named.column, unit, factors[unit], median=median(numbers) * factors[unit])
        return round(_plausible(numbers, factors[unit], variable), 1), likelier_unit(name, finding, variable) is None

    best = max(units, key=fits)
    rivals = [unit for unit in units if factors[unit] != factors[best] and fits(unit) == fits(best)]
    return best, f"; values look like {best}", not rivals


def _unit_in(column: str, units: Sequence[str]) -> str | None:
    """The unit at the end of a header: ``size_cm``, ``TSH (uIU/mL)``, ``tsh_mIU_L``."""
    words = tokens(column)
    endings = {"".join(words[-k:]) for k in (1, 2) if len(words) > k}
    spelled = {"".join(tokens(unit)): unit for unit in reversed(units)}
    spelled |= {"".join(tokens(unit)).rstrip("s"): unit for unit in units if len(unit) > 4}
    return next((unit for spelling, unit in spelled.items() if spelling and spelling in endings), None)


def _without_unit(column: str, variable: Variable, name: str) -> str:
    if variable.unit is None or (unit := _unit_in(column, known_units(variable.unit, variable=name))) is None:
        return column
    words = tokens(column)
    ending = "".join(tokens(unit))
    return " ".join(words[:-1] if words[-1] in {ending, ending.rstrip("s")} else words[:-2])


def _plausible(numbers: Sequence[float], factor: float, variable: Variable) -> float:
    if variable.range is None:
        return 1.0
    low, high = variable.range
    return sum(low <= value * factor <= high for value in numbers) / len(numbers)


def _label(cell: str, labels: Mapping[str, str] | None) -> str:
    return (labels or {}).get(canonical_code(cell), cell)


def _category(cell: str, names: Mapping[str, tuple[str, ...]]) -> str | None:
    """The one category that ``cell`` means: by a name, then by the longest name of several words within, as the beginning of
    one, by a word within, or by its first word."""
    word = simplified(cell)
    if not word:
        return None
    folded = {category: {simplified(name) for name in every} for category, every in names.items()}
    longest = max(_words_in(word, every) for every in folded.values())
    rules: tuple[Callable[[str], bool], ...] = (
        lambda category: word == simplified(category),
        lambda category: word in folded[category],
        lambda category: _words_in(word, folded[category]) == longest > 1,
        lambda category: _begins(word, simplified(category)),
        lambda category: _words_in(word, folded[category]) == longest > 0,
        lambda category: word.startswith(simplified(category) + "_"),
    )
    for fits in rules:
        if found := [category for category in names if fits(category)]:
            return found[0] if len(found) == 1 else None
    return None


def _begins(word: str, category: str) -> bool:
    """``T1a`` begins with T1, and ``hypo`` begins hypoechoic."""
    if re.fullmatch(r"[a-z]{1,2}\d", category) and re.fullmatch(rf"p?{category}[a-z]*", word):
        return True
    return len(word) >= _SHORTEST_START and category.startswith(word)


def _words_in(word: str, names: set[str]) -> int:
    """Words of the longest of ``names``, of more than a letter or two, whose words stand side by side in ``word``."""
    within = [name for name in names if len(name) >= _SHORTEST_START and f"_{name}_" in f"_{word}_"]
    return max((name.count("_") + 1 for name in within), default=0)


def _by_order(cells: Sequence[str], categories: Sequence[str]) -> dict[str, str | None] | None:
    """Codes 0, 1, 2 ... or 1, 2, 3 ... as the categories in their order."""
    codes = {cell: canonical_code(cell) for cell in cells}
    if not all(code.isdigit() for code in codes.values()):
        return None
    values = sorted({int(code) for code in codes.values()})
    first = values[0]
    if first not in {0, 1} or values[-1] - first >= len(categories):
        return None
    return {cell: categories[int(code) - first] for cell, code in codes.items()}


def code_value(cell: str) -> Scalar:
    """A cell as a code of ``site.toml``: a number or a truth value without quotes."""
    code = canonical_code(cell)
    if code in {"true", "false"}:
        return code == "true"
    return int(code) if code.lstrip("-").isdigit() else cell
