"""What a site refuses whatever the center sends: unapproved, altered, revoked, disallowed, too much, too often, replayed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.cohort import StudyPatients
from client.governance.approval import Approvals
from client.governance.exchanges import CohortVersion, Exchanges
from client.site_config import Policy
from client.state import lasting
from client.worker import Worker
from shared_model import messages
from shared_model.errors import ConfigurationError, FailureCode
from shared_model.messages import DescribeRequest, EvaluateRequest, Failure, Message, Request, Task, TrainRequest
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from tests.sites import cut, tensors
from tests.unit.test_study import protocol

PROTOCOL = protocol()
SPEC = ParameterSpec.of(build_network(PROTOCOL, normalization=None, seed=7))
WEIGHTS = SPEC.to_vector(build_network(PROTOCOL, normalization=None, seed=7))
SHARES = (0.6, 0.2, 0.2)


class Hospital:
    """A site whose export can change, and whose worker can be started again."""

    def __init__(self, folder: Path, **policy: object) -> None:
        self.folder = folder
        self.policy = Policy(**({"minimum_cell": 1, "minimum_patients": 1, "minimum_gradient": 1} | policy))  # type: ignore[arg-type]
        self.patients = cut(tensors(patients=60, seed=3), shares=SHARES)
        self.approvals = Approvals(lasting(folder, "north"))
        self.restart()

    def restart(self) -> None:
        self.worker = Worker("north", policy=self.policy, load=lambda _: self.patients, state=self.folder)

    def ask(self, request: Request, **vectors: np.ndarray) -> FailureCode | None:
        reply = messages.decode(self.worker.handle(messages.encode(Message(request, vectors)))).record
        return reply.code if isinstance(reply, Failure) else None

    def describe(self, **changes: object) -> FailureCode | None:
        return self.ask(DescribeRequest(task(**changes)))

    def train(self, **changes: object) -> FailureCode | None:
        weights = changes.pop("weights", WEIGHTS)
        return self.ask(TrainRequest(task(**changes), SPEC.sha256, None, basis=0), weights=weights)  # type: ignore[arg-type]

    def evaluate(
        self, parts: tuple[str, ...] = ("test",), weights: np.ndarray = WEIGHTS, **changes: object
    ) -> FailureCode | None:
        request = EvaluateRequest(task(**changes), SPEC.sha256, None, basis=0, parts=parts)  # type: ignore[arg-type]
        return self.ask(request, weights=weights)


def task(asked: StudyProtocol = PROTOCOL, **changes: object) -> Task:
    stated = {"run": "r", "site": "north", "round": 1, "attempt": "a", "protocol_json": asked.canonical_json, "seed": 7}
    return Task(**(stated | changes))  # type: ignore[arg-type]


@pytest.fixture
def north(tmp_path: Path) -> Hospital:
    hospital = Hospital(tmp_path)
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    return hospital


# Approval


def test_nothing_runs_that_nobody_has_approved(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    assert hospital.describe() is hospital.train() is hospital.evaluate() is FailureCode.NOT_APPROVED


def test_an_approved_protocol_runs(north: Hospital) -> None:
    assert north.describe() is north.train() is north.evaluate() is None


def test_an_altered_protocol_is_another_protocol(north: Hospital) -> None:
    document = json.loads(PROTOCOL.canonical_json)
    document["training"]["lr"] = 0.10000001
    assert north.train(protocol_json=json.dumps(document)) is FailureCode.NOT_APPROVED


def test_a_revocation_holds_at_once_and_can_be_taken_back(north: Hospital) -> None:
    assert north.describe() is None
    [revoked] = north.approvals.revoke(PROTOCOL.sha256[:12], by="Dr. Roe")
    assert revoked.revoked_by == "Dr. Roe"
    assert north.describe() is FailureCode.NOT_APPROVED
    north.approvals.approve(PROTOCOL, policy=north.policy, by="Dr. Doe")
    assert north.describe() is None
    assert [approval.by for approval in north.approvals.all()] == ["Dr. Roe", "Dr. Doe"]


def test_a_damaged_list_of_approvals_approves_nothing(north: Hospital) -> None:
    path = lasting(north.folder, "north") / "approvals.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert north.describe() is FailureCode.NOT_APPROVED
    with pytest.raises(ConfigurationError, match="approve again"):
        north.approvals.all()


def test_an_approval_is_given_once_and_a_prefix_of_one_letter_revokes_nothing(north: Hospital) -> None:
    again = north.approvals.approve(PROTOCOL, policy=north.policy, by="somebody else")
    assert again.by == "Dr. Roe"
    assert north.approvals.revoke(PROTOCOL.sha256[:1], by="x") == ()
    assert len(north.approvals.revoke("s", by="x")) == 1, "by the name of the study"


# Limits


def test_more_rounds_than_approved_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, max_rounds=3)
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    assert hospital.train(round=3) is None
    assert hospital.train(round=4, attempt="b") is FailureCode.TOO_MANY_ROUNDS
    assert hospital.evaluate(round=5) is FailureCode.TOO_MANY_ROUNDS


def test_tasks_and_parts_outside_of_what_was_approved_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, tasks=("describe", "evaluate"))
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    assert hospital.train() is FailureCode.TASK_NOT_ALLOWED
    assert hospital.evaluate(("train",)) is FailureCode.TASK_NOT_ALLOWED
    assert hospital.evaluate(("tune", "test")) is None
    hospital.policy = replace_policy(hospital.policy, tasks=("describe", "train", "evaluate"))
    hospital.restart()
    assert hospital.train() is FailureCode.TASK_NOT_ALLOWED, "what was approved holds, not what was allowed since"


def replace_policy(policy: Policy, **changes: object) -> Policy:
    return policy.model_copy(update=changes)


def test_a_model_cannot_be_probed_without_end(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, max_evaluations=3)
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    probes = [hospital.evaluate(attempt=str(k), weights=WEIGHTS + np.float32(k)) for k in range(5)]
    assert probes == [None, None, None, FailureCode.TOO_MANY_ROUNDS, FailureCode.TOO_MANY_ROUNDS]
    assert hospital.evaluate(attempt="0") is None, "what was answered may be asked for again"


def test_an_approval_is_for_so_many_runs(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, max_runs=2)
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    assert [hospital.describe(run=run) for run in ("one", "two", "three", "one")] == [
        None,
        None,
        FailureCode.TOO_MANY_ROUNDS,
        None,
    ]


# Replay


def test_a_round_may_be_tried_again_and_a_request_repeated(north: Hospital) -> None:
    assert [north.train(round=2, attempt=attempt) for attempt in ("a", "b", "a")] == [None, None, None]


def test_an_attempt_that_asks_for_something_else_is_a_replay(north: Hospital) -> None:
    assert north.train() is None
    assert north.train(weights=WEIGHTS + np.float32(1)) is FailureCode.REPLAYED_REQUEST
    assert north.train(seed=8) is FailureCode.REPLAYED_REQUEST
    assert north.train(attempt="b", weights=WEIGHTS + np.float32(1)) is None


def test_a_round_long_past_is_a_replay_also_after_a_restart(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    long = protocol(federation={"rounds": 20})
    hospital.approvals.approve(long, policy=hospital.policy, by="Dr. Roe")
    stated = {"protocol_json": long.canonical_json}
    assert hospital.train(round=1, attempt="1", **stated) is None
    assert hospital.train(round=9, attempt="9", **stated) is None
    hospital.restart()
    assert hospital.train(round=1, attempt="1", **stated) is FailureCode.REPLAYED_REQUEST
    assert hospital.train(round=5, attempt="5", **stated) is FailureCode.REPLAYED_REQUEST
    assert hospital.train(round=6, attempt="6", **stated) is None, "the center may have lost its newest checkpoints"
    assert hospital.train(round=1, run="other", attempt="x", **stated) is None


# Cohorts


def changed(patients: StudyPatients, many: int) -> StudyPatients:
    label = patients.tensors.label.clone()
    label[:many] = 1.0 - label[:many]
    return replace(patients, tensors=replace(patients.tensors, label=label))


@pytest.mark.parametrize(("many", "expected"), [(0, None), (1, "refused"), (4, "refused"), (5, None)])
def test_no_two_answers_differ_by_a_few_patients(tmp_path: Path, many: int, expected: str | None) -> None:
    hospital = Hospital(tmp_path, minimum_cell=5)
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    assert hospital.describe() is None
    hospital.patients = changed(hospital.patients, many)
    hospital.restart()
    assert hospital.describe(attempt="b") is (FailureCode.COHORT_CHANGED if expected else None)


def test_a_hospital_may_allow_small_changes(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, minimum_cell=5, small_changes="allow")
    hospital.approvals.approve(PROTOCOL, policy=hospital.policy, by="Dr. Roe")
    assert hospital.describe() is None
    hospital.patients = changed(hospital.patients, 1)
    hospital.restart()
    assert hospital.describe() is None


def test_who_takes_part_is_compared_across_protocols(tmp_path: Path) -> None:
    hospital, other = Hospital(tmp_path, minimum_cell=5), protocol(training={"lr": 0.2})
    for asked in (PROTOCOL, other):
        hospital.approvals.approve(asked, policy=hospital.policy, by="Dr. Roe")
    everybody = frozenset(f"patient {k}" for k in range(60))
    hospital.patients = replace(hospital.patients, members=everybody)
    assert hospital.describe() is None
    hospital.patients = replace(hospital.patients, members=everybody - {"patient 7"})
    hospital.restart()
    assert hospital.describe(asked=other, run="s") is FailureCode.COHORT_CHANGED


def test_versions_do_not_depend_on_the_order_of_patients_and_see_pictures(tmp_path: Path) -> None:
    exchanges = Exchanges(tmp_path)
    data = replace(
        tensors(patients=6, seed=1),
        images=torch.arange(6 * 256, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(6, 1, 16, 16),
        slots=torch.arange(6).reshape(6, 1),
        views=torch.zeros(6, 1, dtype=torch.int64),
    )
    patients = cut(data, shares=(1.0, 0.0, 0.0))

    def version(of: StudyPatients) -> CohortVersion:
        return exchanges.versions(of, protocol_sha256="p")[0]

    turned = replace(data, **{f: getattr(data, f).flip(0) for f in ("slots", "views", "numeric", "numeric_present", "label")})
    assert version(replace(patients, tensors=turned)).fingerprint == version(patients).fingerprint
    images = data.images.clone()
    images[3, 0, 5, 5] += 1
    assert version(replace(patients, tensors=replace(data, images=images))).apart(version(patients)) == 1
    assert version(patients).members != Exchanges(tmp_path / "other").versions(patients, protocol_sha256="p")[0].members
