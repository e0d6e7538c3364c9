"""What modalities and variables contribute to the patients' logits, and tests of that: rows of cells, a row a patient."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.attribution import Attribution, Frozen, integrated_gradients, modality_shapley, sampled_shapley
from shared_model.attribution.faithfulness import variables_deleted
from shared_model.attribution.frozen import to_numpy
from shared_model.attribution.modalities import left_out
from shared_model.attribution.rollout import attention_rollout
from shared_model.attribution.sanity import rank_correlation
from shared_model.attribution.variables import COMPLETE, ablated, has_table
from shared_model.explanations import CLASSES, by_sign, clipped
from shared_model.inputs import ABSENT, PatientBatch, categorical_names, numeric_names
from shared_model.network import MultimodalNetwork, PatientNetwork
from shared_model.protocol import StudyProtocol
from shared_model.protocol_explanation import Explanation
from shared_model.tokens import Normalizer

Floats = NDArray[np.float64]
Rows = dict[str, tuple[NDArray[np.bool_], Floats]]

ORDERS = 4  # random orders of sampled Shapley values, in a study; they add up to the logit for any number


@dataclass(frozen=True)
class Explainer:
    """A network in evaluation mode, and the protocol that says what is explained of it. ``seed`` of everything drawn."""

    network: PatientNetwork
    protocol: StudyProtocol
    seed: int

    @property
    def settings(self) -> Explanation:
        """``[explanation]`` of the protocol."""
        assert self.protocol.explanation is not None
        return self.protocol.explanation

    def contribution_rows(self, batch: PatientBatch, *, brief: bool) -> Rows:
        """Shares of modalities and contributions of variables; unless ``brief``, dependence curves and tests too."""
        network = self.network
        frozen = Frozen.of(network, batch) if isinstance(network, MultimodalNetwork) else None
        rows = self._modalities(batch, frozen)
        if not has_table(network):
            return rows
        found = integrated_gradients(network, batch, protocol=self.protocol, frozen=frozen)
        parts = clipped(found.values, clip=self.settings.clip)
        high = found.logit >= _log_odds(self.protocol.evaluation.thresholds[0])
        everybody = np.ones(len(batch), dtype=np.bool_)
        rows |= {f"variables.{name}": (high == (name == "high"), by_sign(parts)) for name in CLASSES}
        rows |= {"variables.size": (everybody, np.abs(parts)), "variables.square": (everybody, np.square(parts))}
        if not brief:
            rows |= self._dependence(batch, parts)
            rows |= self._variable_tests(batch, found, frozen)
        return rows

    def _modalities(self, batch: PatientBatch, frozen: Frozen | None) -> Rows:
        found = modality_shapley(self.network, batch, protocol=self.protocol, frozen=frozen)
        falls = found.values if frozen is None else left_out(frozen)  # of a linear network they are the same
        share, known = _shares(found.values)
        ablation, _ = _shares(falls)
        return {
            "modalities.share": (known, share),
            "modalities.square": (known, np.square(share)),
            "modalities.left_out": (known, ablation),
        }

    def _dependence(self, batch: PatientBatch, parts: Floats) -> Rows:
        rows: Rows = {}
        for column, (name, place) in enumerate(self._bins(batch).items()):
            signed = by_sign(parts[:, column : column + 1])
            rows |= {f"dependence.{name}.{bin_}": (place == bin_, signed) for bin_ in np.unique(place)}
        return rows

    def _bins(self, batch: PatientBatch) -> dict[str, NDArray[np.int64]]:
        """Place of each patient on each variable's curve, the last one for patients without a value."""
        normalizer = next(module for module in self.network.modules() if isinstance(module, Normalizer))
        standard, edges = to_numpy(normalizer.numeric(batch)), np.array(self.settings.bins)
        bins: dict[str, NDArray[np.int64]] = {}
        for column, name in enumerate(numeric_names(self.protocol)):
            known = batch.numeric_present[:, column].cpu().numpy()
            bins[name] = np.where(known, np.searchsorted(edges, standard[:, column]), len(edges) + 1)
        for column, name in enumerate(categorical_names(self.protocol)):
            code = batch.categorical[:, column].cpu().numpy()
            bins[name] = np.where(code == ABSENT, len(self.protocol.variables[name].categories), code)
        return bins

    def _variable_tests(self, batch: PatientBatch, found: Attribution, frozen: Frozen | None) -> Rows:
        everybody, one = np.ones(len(batch), dtype=np.bool_), np.ones((len(batch), 1))
        gaps = np.stack([np.minimum(found.gap, 1.0), found.gap > COMPLETE], axis=1).astype(np.float64)
        rows: Rows = {"complete.variables": (everybody, gaps)}
        if frozen is None:  # linear: nothing is sampled, and every method gives the terms themselves
            return rows | {"repeat.shapley": (everybody, one), "agree.shapley": (everybody, one)}
        first, second = (
            sampled_shapley(
                self.network, batch, protocol=self.protocol, seed=self.seed + place, orders=ORDERS, frozen=frozen
            ).values
            for place in range(2)
        )
        rows["repeat.shapley"] = everybody, rank_correlation(first, second)[:, None]
        rows["agree.shapley"] = everybody, rank_correlation(found.values, 0.5 * (first + second))[:, None]
        assert isinstance(self.network, MultimodalNetwork)
        assert self.network.table_tokens is not None
        mean = self.network.table_tokens.mean_contents().detach().expand_as(frozen.table)
        noise = np.random.default_rng(self.seed).standard_normal(found.values.shape)
        areas = [variables_deleted(frozen, values, mean) for values in (found.values, noise)]
        rows["faithfulness.variables"] = everybody, np.stack([f(a) for a in areas for f in (np.asarray, np.square)], axis=1)
        importance = np.abs(ablated(frozen))
        attention = to_numpy(attention_rollout(self.network, batch).variables)
        ranks = [rank_correlation(values, importance) for values in (attention, np.abs(found.values))]
        rows["attention.variables"] = everybody, np.stack(ranks, axis=1)
        return rows


def _shares(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Each patient's absolute ``values`` over their sum, and which patients have any."""
    size = np.abs(values).sum(axis=1)
    known = size > 1e-6
    return np.abs(values) / np.where(known, size, 1.0)[:, None], known


def _log_odds(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))
