"""May this be asked of this site? What the hospital allows wins over whatever the center sends."""

from collections.abc import Collection

from client.site_config import Policy, TaskName
from shared_model import config_file
from shared_model.errors import ConfigurationError, FailureCode, RefusedError
from shared_model.messages import AnyRecord, Request, SecureSumRequest
from shared_model.protocol import StudyProtocol


def asked(record: AnyRecord) -> Request:
    """``record`` as the request that a site may answer.

    Raises:
        RefusedError: it is none.
    """
    if not isinstance(record, Request):
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"{record.kind} is no request")
    return record


def covered(request: Request, tasks: Collection[TaskName]) -> bool:
    """Whether ``tasks`` allow ``request``. Comparing is of what evaluations have scored; steps of a secure sum are allowed
    where anything is that is summed."""
    if isinstance(request, SecureSumRequest):
        return not {"train", "evaluate"}.isdisjoint(tasks)
    return ("evaluate" if request.kind == "compare" else request.kind) in tasks


class Gate:
    """Admits requests to the site ``name`` as its ``policy`` says."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.policy = policy

    def admit(self, request: Request) -> StudyProtocol:
        """The protocol under which ``request`` may be carried out.

        Raises:
            RefusedError: it may not.
        """
        task = request.task
        if task.site != self.name:
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"a request for site {task.site!r}")
        if not covered(request, self.policy.tasks):
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, f"this site's policy does not allow {request.kind!r}")
        if not task.run.replace("-", "").replace("_", "").isalnum():
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "a run identifier that is no identifier")
        try:
            return config_file.validate_json(task.protocol_json, StudyProtocol, where="the center's protocol")
        except ConfigurationError as error:
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, str(error)) from None

    def admit_cohort(self, patients: int) -> None:
        """Make sure that the cohort is one of which something may be said.

        Raises:
            RefusedError: it has too few ``patients``.
        """
        allowed = self.policy.minimum_patients
        if patients < allowed:
            raise RefusedError(FailureCode.TOO_FEW_PATIENTS, f"{patients} patients, this site's minimum is {allowed}")
