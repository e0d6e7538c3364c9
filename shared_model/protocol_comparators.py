"""``[comparators]``: what clinicians said of the same patients, beside which the model is judged and which it never sees.

A comparator is no input of the network, unless it names a variable of the study, which is one anyway.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator

from shared_model.config_file import Strict
from shared_model.variables import Variable


class Comparator(Strict):
    """A conventional assessment: a radiologist's reading, TI-RADS, the clinical N stage.

    It is the ``variable`` of the study that is named, or one of its own, defined as variables are and mapped by sites in
    ``[cohort.comparators]``. Categories are ordered, from the least to the most suspicious. It calls a patient positive by one
    of the categories ``positive``, or by a number of at least ``at_least``.
    """

    variable: str | None = None
    kind: Literal["numeric", "categorical"] = "categorical"
    unit: str | None = None
    range: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    at_least: float | None = None
    description: str = ""

    @model_validator(mode="after")
    def _one_definition(self) -> Self:
        if self.variable is None:
            self.defined({})
        elif self.kind != "categorical" or self.unit or self.range or self.categories:
            raise ValueError("a variable of the study has its kind, unit, range and categories || remove them here")
        if bool(self.positive) == (self.at_least is not None):
            raise ValueError("categories that mean positive, or the least number that does || give positive, or at_least")
        return self

    def defined(self, variables: Mapping[str, Variable]) -> Variable:
        """The comparator as a variable; ``variables`` are the study's.

        Raises:
            ValueError: it names none of them, or its own definition is none.
        """
        if self.variable is not None:
            if self.variable not in variables:
                raise ValueError(
                    f"no variable {self.variable!r} in [variables] || name one that is there, or define the comparator here"
                )
            return variables[self.variable]
        return Variable(kind=self.kind, unit=self.unit, range=self.range, categories=self.categories)

    def check_against(self, variables: Mapping[str, Variable]) -> None:
        """Refuse what the kind of the comparator does not allow.

        Raises:
            ValueError: with what to mend.
        """
        defined = self.defined(variables)
        if defined.kind == "numeric" and self.at_least is None:
            raise ValueError("a number is positive from some value on || give at_least instead of positive")
        if defined.kind == "categorical":
            if not self.positive:
                raise ValueError("categories have no least number || give positive = [...] instead of at_least")
            if unknown := sorted(set(self.positive) - set(defined.categories)):
                raise ValueError(f"positive names {unknown}, the categories are {list(defined.categories)} || mend positive")
            if set(self.positive) == set(defined.categories):
                raise ValueError("every category is positive || leave out of positive those that are not")

    def calls(self, rating: float, variables: Mapping[str, Variable]) -> bool:
        """Whether ``rating``, a number or the place of a category, is a positive one."""
        if self.at_least is not None:
            return rating >= self.at_least
        return self.defined(variables).categories[int(rating)] in self.positive
