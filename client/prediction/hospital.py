"""The hospital's own patients, beside whom one patient is seen: how the model does here, and what is usual here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.load import Cohort, load_cohort
from client.prediction.model_file import Model, with_own_layers
from client.prediction.recalibration import Recalibration, fit
from client.site_config import SiteConfig
from client.tasks.workbench import own_normalization
from shared_model import metrics
from shared_model.inputs import ABSENT, PatientBatch, categorical_names, numeric_names
from shared_model.messages import Part
from shared_model.summaries import Estimate

Floats = NDArray[np.float64]
BATCH = 256
NEAR = 30  # patients of similar risk, at most a fifth of all
USUAL = (0.01, 0.99)  # quantiles of training patients within which a value is usual


@dataclass(frozen=True)
class SimilarRisk:
    """The hospital's ``patients`` of risks ``low`` to ``high``, and how many had the outcome."""

    patients: int
    events: int
    low: float
    high: float
    observed: Estimate


@dataclass(frozen=True)
class Hospital:
    """A hospital and a model. ``logits`` float64 ``[P]`` of all its labelled patients; ``recalibration``, or why not."""

    config: SiteConfig
    model: Model
    cohort: Cohort
    logits: Floats
    recalibration: Recalibration | str

    @classmethod
    def of(cls, config: SiteConfig, model_path: Path, *, where: Path, state: Path | None = None) -> "Hospital":
        """Read the hospital's cohort and score it. ``state`` is the worker's, for a study with layers that stay at the site.

        Raises:
            ConfigurationError, CohortError: the model, or the hospital's files, cannot be used.
        """
        model = Model.read(model_path)
        cohort = load_cohort(config, model.protocol, where=where)
        if model.normalization is None and model.protocol.variables:
            own = own_normalization(cohort.tensors, cohort.parts, model.protocol)
            model = Model.read(model_path, own=own)
        model = with_own_layers(model, state, site=config.site.name)
        logits = logits_of(model, cohort)
        tune = cohort.parts["tune"].numpy()
        labels = cohort.tensors.label.double().numpy()
        return cls(config, model, cohort, logits, fit(logits[tune], labels[tune]))

    @property
    def tested(self) -> NDArray[np.int64]:
        """Patients on whom neither the model nor the recalibration was fitted."""
        return np.asarray(self.cohort.parts["test"].numpy())

    def part_of(self, patient: str) -> Part | None:
        """The part of the study that a patient is in; None of one who is in none."""
        if patient not in self.cohort.patients:
            return None
        place = self.cohort.patients.index(patient)
        return next(part for part, members in self.cohort.parts.items() if bool((members == place).any()))

    def auc(self) -> Estimate | None:
        """The model's AUC on the hospital's test patients."""
        return metrics.auc_interval(sigmoid(self.logits[self.tested]), self.cohort.tensors.label.double().numpy()[self.tested])

    def similar(self, logit: float, *, without: str) -> SimilarRisk | None:
        """Test patients nearest in risk to ``logit``, other than patient ``without``; None where there are too few."""
        names = np.array(self.cohort.patients)
        others = self.tested[names[self.tested] != without] if len(self.tested) else self.tested
        count = max(self.config.policy.minimum_patients, min(NEAR, len(others) // 5))
        if len(others) < count:
            return None
        near = others[np.argsort(np.abs(self.logits[others] - logit), kind="stable")[:count]]
        risks = np.array([self.risk(value) for value in self.logits[near]])
        events = int(self.cohort.tensors.label[torch.from_numpy(near)].sum())
        observed = metrics.wilson(events, count)
        assert observed is not None
        return SimilarRisk(count, events, float(risks.min()), float(risks.max()), observed)

    def risk(self, logit: float) -> float:
        """The best risk that there is: recalibrated, or else the model's own."""
        if isinstance(self.recalibration, str):
            return float(sigmoid(np.array(logit)))
        return self.recalibration.risk(logit).value

    def usual_range(self, column: int) -> tuple[float, float] | None:
        """Between which values of a numeric variable nearly all training patients lie (of its logarithm, if it is taken)."""
        train = self.cohort.parts["train"]
        known = self.cohort.tensors.numeric[train, column][self.cohort.tensors.numeric_present[train, column]]
        if len(known) < self.config.policy.minimum_patients:
            return None
        low, high = torch.quantile(known.double(), torch.tensor(USUAL, dtype=torch.float64)).tolist()
        return float(low), float(high)

    def has_category(self, column: int, code: int) -> bool:
        """Whether any training patient had a category."""
        return bool((self.cohort.tensors.categorical[self.cohort.parts["train"], column] == code).any())

    def usual_pictures(self) -> tuple[Floats, Floats] | None:
        """Between which mean grey levels and contrasts nearly all training pictures lie, ``[2]`` each; None without."""
        slots = self.cohort.tensors.slots[self.cohort.parts["train"]]
        images = self.cohort.tensors.images[slots[slots != ABSENT]][:, 0].double() / 255.0
        if len(images) < self.config.policy.minimum_patients:
            return None
        look = picture_look(images)
        return np.quantile(look, USUAL[0], axis=0), np.quantile(look, USUAL[1], axis=0)


def picture_look(images: Tensor) -> Floats:
    """Mean grey level and its standard deviation of pictures ``[M, H, W]`` in 0..1; ``[M, 2]``."""
    flat = images.flatten(1)
    return np.asarray(torch.stack([flat.mean(dim=1), flat.std(dim=1)], dim=1).double().numpy())


@torch.no_grad()
def logits_of(model: Model, cohort: Cohort) -> Floats:
    """The model's log odds of every patient, float64 ``[P]``."""
    chunks = [
        model.network(cohort.tensors.batch(members)).double() for members in torch.split(torch.arange(len(cohort)), BATCH)
    ]
    return np.asarray(torch.cat(chunks).numpy() if chunks else np.zeros(0))


def sigmoid(x: Floats) -> Floats:
    """Probability of log odds."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def shown_values(model: Model, batch: PatientBatch) -> dict[str, str | None]:
    """A patient's values in words and the protocol's units, None where there is none; ``batch`` is of one patient."""
    values: dict[str, str | None] = {}
    for column, name in enumerate(numeric_names(model.protocol)):
        variable = model.protocol.variables[name]
        number = float(batch.numeric[0, column])
        number = float(np.exp(number)) if variable.log else number
        known = bool(batch.numeric_present[0, column])
        values[name] = f"{number:.3g} {variable.unit or ''}".strip() if known else None
    for column, name in enumerate(categorical_names(model.protocol)):
        code = int(batch.categorical[0, column])
        values[name] = None if code == ABSENT else model.protocol.variables[name].categories[code].replace("_", " ")
    return values
