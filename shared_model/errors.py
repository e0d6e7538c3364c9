"""What can go wrong, as one small tree of exceptions.

::

    ConsiliumError
    ├── ConfigurationError    a study.toml, site.toml or command line: every fault of the file at once
    ├── CohortError           a hospital's table or images do not fit its configuration
    ├── MessageError          bytes from the other side that do not decode to a record we know
    ├── RefusedError          a site declines a request (policy, protocol, task): carries a neutral code
    └── StudyError            a study cannot start or cannot go on (quorum, journal, protocol mismatch)

Commands print ``str(error)`` and exit with 2 for the first two, 1 for the others; a traceback is a defect of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one file, told so that its owner can mend it.

    ``where`` is the file (or command-line option), ``key`` the dotted field in it, ``found`` the value as it stands,
    ``expected`` what would be right, ``remedy`` the next thing to do.
    """

    where: str
    key: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.where}: {self.key}" if self.key else self.where
        return f"{place}\n    found:    {self.found}\n    expected: {self.expected}\n    remedy:   {self.remedy}"


class ConsiliumError(Exception):
    """Base of every error raised on purpose."""


class _FaultyError(ConsiliumError):
    def __init__(self, faults: Sequence[Fault]) -> None:
        if not faults:
            raise ValueError("an error without a fault explains nothing")
        self.faults = tuple(faults)
        count = "1 problem" if len(self.faults) == 1 else f"{len(self.faults)} problems"
        super().__init__("\n".join([f"{count} found:", *(f"{n}. {fault}" for n, fault in enumerate(self.faults, 1))]))


class ConfigurationError(_FaultyError):
    """A configuration file or option is wrong; ``faults`` lists everything found, not the first."""


class CohortError(_FaultyError):
    """A hospital's own files do not fit its configuration; ``faults`` lists everything found."""


class MessageError(ConsiliumError):
    """Bytes that do not decode to a known record within its limits."""


class StudyError(ConsiliumError):
    """A study cannot start or cannot go on."""


class FailureCode(StrEnum):
    """Why a site's reply does not count. A closed set: no text of a site's own crosses the network beside it."""

    PROTOCOL_MISMATCH = "protocol_mismatch"
    TASK_NOT_ALLOWED = "task_not_allowed"
    NOT_APPROVED = "not_approved"
    BUDGET_EXCEEDED = "budget_exceeded"
    TOO_MANY_ROUNDS = "too_many_rounds"
    TOO_FEW_PATIENTS = "too_few_patients"
    REPLAYED_REQUEST = "replayed_request"
    COHORT_UNUSABLE = "cohort_unusable"
    COHORT_CHANGED = "cohort_changed"
    MODEL_REFUSED = "model_refused"
    TRAINING_DIVERGED = "training_diverged"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    MALFORMED_REPLY = "malformed_reply"
    STALE_REPLY = "stale_reply"
    NOT_FINITE = "not_finite"
    WRONG_SHAPE = "wrong_shape"
    WRONG_COUNT = "wrong_count"
    NORM_EXCEEDED = "norm_exceeded"
    SECURE_SUM_REFUSED = "secure_sum_refused"


class RefusedError(ConsiliumError):
    """A site declines a request. Only ``code`` leaves the site; ``detail`` stays in the site's own log."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code.value}: {detail}")
