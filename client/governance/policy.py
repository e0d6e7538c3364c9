"""May this be asked of this site? What the hospital allows wins over whatever the center sends."""

from client.site_config import Policy
from shared_model import config_file
from shared_model.errors import ConfigurationError, FailureCode, RefusedError
from shared_model.messages import AnyRecord, Request
from shared_model.protocol import StudyProtocol


def asked(record: AnyRecord) -> Request:
    """``record`` as the request that a site may answer.

    Raises:
        RefusedError: it is none.
    """
    if not isinstance(record, Request):
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"{record.kind} is no request")
    return record


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
        kind = "evaluate" if request.kind == "compare" else request.kind  # it compares what evaluations have scored
        if kind not in self.policy.tasks:
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, f"this site's policy does not allow {kind!r}")
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
