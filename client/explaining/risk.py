"""Observed and predicted risk by where the lesion lies: rows of cells, a row a patient."""

import numpy as np

from client.explaining.contributions import Explainer, Rows
from shared_model.attribution.frozen import to_numpy
from shared_model.inputs import ABSENT, PatientBatch, categorical_names, numeric_names


def risk_rows(explainer: Explainer, batch: PatientBatch, probability: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Rows:
    """Events and predicted ``probability`` ``[B]`` by position, by distance, and by both."""
    by = explainer.settings.risk_by
    if by is None:
        return {}
    protocol = explainer.protocol
    column = numeric_names(protocol).index(by.distance)
    known = batch.numeric_present[:, column].cpu().numpy()
    far = np.where(known, np.searchsorted(np.array(by.edges), to_numpy(batch.numeric[:, column]), side="left"), ABSENT)
    where = batch.categorical[:, categorical_names(protocol).index(by.position)].cpu().numpy()
    vectors = np.stack([to_numpy(batch.label), probability], axis=1)
    rows: Rows = {}
    for position in range(len(protocol.variables[by.position].categories)):
        rows[f"risk.position.{position}"] = where == position, vectors
        for distance in range(len(by.edges) + 1):
            rows[f"risk.both.{position}.{distance}"] = (where == position) & (far == distance), vectors
    return rows | {f"risk.distance.{distance}": (far == distance, vectors) for distance in range(len(by.edges) + 1)}
