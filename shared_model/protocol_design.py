"""Which patients a study trains on and which it is judged by, where that is not each site's own split."""

from typing import Self

from pydantic import Field, model_validator

from shared_model.config_file import Strict


class Fold(Strict):
    """Fold ``k`` of ``of`` of a cross-validation over patients: at every site its patients of that fold are tested, the others
    are trained and tuned on. The folds of a site cover its patients, each once, and follow from the site's own seed."""

    k: int = Field(ge=1)
    of: int = Field(ge=2, le=20)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.k > self.of:
            raise ValueError(f"there is no fold {self.k} of {self.of} || folds are counted from 1")
        return self
