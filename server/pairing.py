"""Which models of a simulation are compared at which site: the arms of a run, or of all folds of a cross-validation."""

from collections.abc import Iterator, Mapping, Sequence

from server import admission, comparing
from server.baselines import SiteWorker
from server.comparing import FEDERATED, Models
from server.records import Arm, RunRecord
from shared_model import messages
from shared_model.errors import RefusedError, StudyError
from shared_model.messages import CompareReply, CompareRequest, Message, ScoredModel


def compare_arms(record: RunRecord, arms: Sequence[Arm], workers: Mapping[str, SiteWorker]) -> Iterator[CompareReply]:
    """What each site with test patients says of the federated model beside the ``arms``.

    Raises:
        StudyError: a site could not compare.
    """
    for site, worker in workers.items():
        if _tested(record, site):
            yield _compare(record, worker, _models(record, arms, site))


def compare_over_folds(
    record: RunRecord,
    folds: Sequence[tuple[RunRecord, Sequence[Arm]]],
    workers: Mapping[str, SiteWorker],
) -> Iterator[CompareReply]:
    """What each site says of all ``folds`` together, each with its arms, under the run's own protocol.

    Raises:
        StudyError: a site could not compare.
    """
    for site, worker in workers.items():
        found = [_models(fold, arms, site) for fold, arms in folds if _tested(fold, site)]
        if found:
            everywhere = [name for name in found[0] if all(name in models for models in found)]
            models = {name: tuple(model for fold in found for model in fold[name]) for name in everywhere}
            yield _compare(record, worker, models)


def _tested(record: RunRecord, site: str) -> bool:
    return site in record.descriptions and site in record.evaluations and record.descriptions[site].parts["test"].patients > 0


def _models(record: RunRecord, arms: Sequence[Arm], site: str) -> Models:
    personal = "test" in record.evaluations[site].personal
    models = comparing.own_models(run=record.run, model=record.best_round, personal=personal)
    for arm in arms:
        if arm.site in {None, site}:
            models[arm.kind] = (ScoredModel(arm.run, arm.model),)
    return models


def _compare(record: RunRecord, worker: SiteWorker, models: Models) -> CompareReply:
    folds = len(models[FEDERATED])
    token = messages.attempt_token(record.run, worker.name, record.best_round, folds, f"compare {sorted(models)}")
    task = comparing.comparison_task(record, worker.name, attempt=token)
    request = CompareRequest(task, first=FEDERATED, models=models)
    patients = sum(part.patients for part in record.descriptions[worker.name].parts.values())
    try:
        reply = admission.admit(worker.handle(messages.encode(Message(request))), site=worker.name, attempt=token)
        return comparing.admit_comparison(reply, request=request, protocol=record.protocol, patients=patients)
    except RefusedError as error:
        raise StudyError(f"site {worker.name} could not compare the models: {error.detail}") from None
