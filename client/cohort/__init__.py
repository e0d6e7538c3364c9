"""From a hospital's files to tensors: ``load_cohort``."""

from client.cohort.design import designed
from client.cohort.findings import Findings, ImageFindings, Notice, OutcomeCounts, UnusableFile, VariableFinding
from client.cohort.load import Cohort, load_cohort, survey
from client.cohort.tensors import CohortTensors, StudyPatients, pool

__all__ = [
    "Cohort",
    "CohortTensors",
    "Findings",
    "ImageFindings",
    "Notice",
    "OutcomeCounts",
    "StudyPatients",
    "UnusableFile",
    "VariableFinding",
    "designed",
    "load_cohort",
    "pool",
    "survey",
]
