"""The whole study as one flat recipe: gather the sites, describe, rounds, evaluate, finish.

Everything that must survive a crash goes through the journal, and everything random follows from the run's seed, so that
the same call on the same run directory continues where it was, and ends with the same bits.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from safetensors.torch import save

from server import admission, comparing, explaining, selection
from server.collecting import CONTROL, RoundInProgress, evaluations_together, pooled_normalization
from server.conversation import Conversation
from server.journal import Journal
from server.masked_rounds import MaskedRounds, Question, require_enough
from server.optimizers import ServerOptimizer
from server.records import RoundRecord
from shared_model.crashpoints import crashpoint
from shared_model.durable import write_durably
from shared_model.errors import FailureCode, StudyError
from shared_model.masking import MINIMUM_SITES
from shared_model.messages import (
    CompareRequest,
    DescribeReply,
    DescribeRequest,
    EvaluateRequest,
    ExplainRequest,
    Part,
    Task,
    TrainRequest,
    Vector,
)
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.secure_layout import evaluation_layout, training_layout
from shared_model.secure_records import MaskingSession
from shared_model.summaries import Normalization

if TYPE_CHECKING:
    from server.sites import Roster

JUDGED: tuple[Part, ...] = ("tune", "test")
MODEL = "model"
OPTIMIZER = "optimizer."


def conduct(roster: "Roster", run_directory: Path) -> None:
    """Run, or resume, the study in ``run_directory`` on the sites of ``roster``.

    Raises:
        StudyError: the study cannot start or go on (no quorum, damaged journal); what was committed stays.
        ConfigurationError: the protocol does not fit the sites' patients.
    """
    with Journal(run_directory) as journal:
        if not journal.finished:
            FederatedStudy(roster, journal).run()


class FederatedStudy:
    """One run of a study.

    Features: resumes from the journal; quorum, deadline and repeated attempts; every reply admitted or refused by name;
    streaming aggregation; the best round by a pooled metric of tuning patients; early stopping.
    """

    def __init__(self, roster: "Roster", journal: Journal) -> None:
        self.sites = Conversation(roster, journal)
        self.journal = journal
        self.protocol = journal.protocol
        self.descriptions: dict[str, DescribeReply] = {}
        self.normalization: Normalization | None = None
        self.masked = MaskedRounds(self.sites)

    def run(self) -> None:
        """The study from wherever it stands to its end."""
        with self.sites.phase("describe"):
            self.gather()
            self.normalize()
        self.restore()
        stopped = "all rounds done"
        while self.round < self.protocol.federation.rounds:
            if self._out_of_patience():
                stopped = f"no better round in {self.protocol.evaluation.patience} rounds"
                break
            if self.sites.absent:
                self.welcome()
            with self.sites.phase("train"):
                if not self.train_round():
                    stopped = "the privacy budgets of too many sites are spent"
                    break
            if self.round in explaining.drift_rounds(self.protocol):
                with self.sites.phase("explain"):
                    self.explain(self.round, self.model.weights, brief=True)
        with self.sites.phase("evaluate"):
            best = self.evaluate()
            self.compare(best)
        weights = self._weights(best)
        if self.protocol.explanation is not None:
            with self.sites.phase("explain"):
                self.explain(best, weights, brief=False)
        self.export(best, weights)
        crashpoint("study.exported")
        self.journal.finish(best_round=best, stopped=stopped)
        crashpoint("study.finished")
        self.journal.event("finished", best_round=best, stopped=stopped)

    # Describe

    def gather(self) -> None:
        """Find the enrolled sites and let those that have not yet done so describe themselves."""
        enrolled = self.journal.enrolled
        if self._secure:
            require_enough(len(self._partners))
        present = self.sites.roster.connect(enrolled, timeout_s=self.protocol.federation.deadline_s)
        for warning in self.sites.roster.warnings:
            self.journal.event("warning", text=warning)
        self.descriptions = self.journal.descriptions()
        for site in enrolled:
            if site not in present and site not in self.descriptions:
                self.sites.fail(site, "describe", FailureCode.UNREACHABLE, "it did not connect in time")
        self._describe(site for site in present if site not in self.descriptions)
        self._require_quorum(len(self.descriptions.keys() - set(self._external)), "described themselves")
        selection.require_selectable(self.protocol, self.descriptions.values())

    def welcome(self) -> None:
        """Let sites that were away when the others described themselves join now."""
        self.sites.roster.refresh()
        self._describe(site for site in sorted(self.sites.absent) if site in self.sites.roster.present)

    def _describe(self, sites: Iterable[str]) -> None:
        requests = {site: DescribeRequest(self.sites.task(site, "describe", 0)) for site in sites}
        for site, message in self.sites.ask("describe", requests):
            with self.sites.refusing(site, "describe"):
                described = admission.admit_description(message, protocol=self.protocol)
                self.journal.add_description(described)
                crashpoint("study.described")
                self.masked.learn(site, described.keys)
                self.sites.absent.discard(site)
        # By name, not by arrival: sums over sites must not depend on who is quick.
        self.descriptions = self.journal.descriptions()

    def normalize(self) -> None:
        """Fix the normalisation from the descriptions, once for the whole run."""
        fixed, self.normalization = self.journal.normalization
        if not fixed:
            if self.protocol.variables and self.protocol.federation.normalization == "federated":
                self.normalization = pooled_normalization(self.descriptions.values(), self.protocol)
            self.journal.set_normalization(self.normalization)

    # Rounds

    def restore(self) -> None:
        """The model as it stands: the newest sound checkpoint, or the one that the seed gives."""
        network = build_network(self.protocol, normalization=self._any_normalization(), seed=self.journal.seed)
        self.network = network
        self.spec = ParameterSpec.of(network, personal=self.protocol.federation.personal)
        newest = self.journal.newest_checkpoint()
        start = self.journal.start
        self.round, tensors = newest if newest else (0, {MODEL: self.spec.to_vector(network) if start is None else start})
        self.model = ServerOptimizer(self.protocol.federation.server_optimizer, tensors[MODEL])
        self.model.restore({name.removeprefix(OPTIMIZER): t for name, t in tensors.items() if name.startswith(OPTIMIZER)})
        self.control = tensors.get(CONTROL, np.zeros(self.spec.size, np.float32))
        self.history = list(self.journal.rounds())
        self.journal.event("restored", round=self.round, rounds=self.protocol.federation.rounds)

    def train_round(self) -> bool:
        """One round: broadcast, local training, admission, aggregation, server step, commit. False if there cannot be one,
        because sites have spent their privacy budgets; what was trained until then stands."""
        started = monotonic()
        number = self.round + 1
        trainers = tuple(site for site, described in self.descriptions.items() if described.parts["train"].patients)
        current = RoundInProgress(self.spec.size, self.protocol)
        self.journal.event("round", round=number, rounds=self.protocol.federation.rounds, sites=list(trainers))
        for attempt in range(1, self.protocol.federation.attempts + 1):
            if self._secure:
                self._train_masked(current, number, attempt, trainers)
            else:
                self._train_attempt(current, number, attempt, [site for site in trainers if site not in current.counted])
            if len(current.counted) >= self._quorum:
                break
            self.journal.event("quorum missed", round=number, attempt=attempt, counted=sorted(current.counted))
        if self.round and len(current.counted) < self._quorum <= len(self._spent_out(number) | set(current.counted)):
            return False
        self._require_quorum(len(current.counted), f"counted in round {number}", round_=number)
        self._step(current)
        counted = {site: current.counted[site] for site in sorted(current.counted)}
        record = RoundRecord(number, counted, self._judged(current), monotonic() - started, "", current.summed)
        crashpoint("round.aggregated")
        self.history.append(self.journal.commit_round(record, self._tensors()))
        self.masked.forget()
        self.round = number
        self.journal.drop_checkpoints(keep={number, number - 1, self._best_known()})
        metric = self.protocol.evaluation.selection
        self.journal.event("committed", round=number, metric=metric, selection=record.selection, seconds=record.wall_s)
        return True

    def _spent_out(self, round_: int) -> set[str]:
        """Sites that refused ``round_`` because of their privacy budgets."""
        failures = self.journal.record().failures
        return {f.site for f in failures if f.round == round_ and f.code is FailureCode.BUDGET_EXCEEDED}

    def _train_attempt(self, current: RoundInProgress, number: int, attempt: int, sites: list[str]) -> None:
        requests = {site: self._train_request(site, self.sites.task(site, "train", number, attempt)) for site in sites}
        give_up = self.sites.patience.over(round_=number, enough=lambda: len(current.counted) >= self._quorum)
        for site, message in self.sites.ask("train", requests, self._broadcast, give_up=give_up):
            with self.sites.refusing(site, "train", number):
                admitted = admission.admit_training(
                    message, protocol=self.protocol, described=self.descriptions[site], size=self.spec.size
                )
                current.count(site, admitted)
                crashpoint("round.counted")

    def _train_masked(self, current: RoundInProgress, number: int, attempt: int, sites: Sequence[str]) -> None:
        question = Question(
            "train",
            number,
            request=self._train_request,
            admit=lambda site, message: admission.admit_masked_training(message, described=self.descriptions[site]),
            length=lambda count: training_layout(self.protocol, size=self.spec.size, sites=count).length,
            vectors=self._broadcast,
        )
        opened = self.masked.sum(question, sites, attempt=attempt, quorum=self._quorum)
        if opened is not None:
            current.count_sum(opened, self.descriptions)

    def _train_request(self, site: str, task: Task, masking: MaskingSession | None = None) -> TrainRequest:
        return TrainRequest(
            task,
            layout=self.spec.sha256,
            normalization=self.normalization,
            basis=self._basis(site, self.round),
            keep=(self._basis(site, self._best_known()),),
            masking=masking,
        )

    @property
    def _broadcast(self) -> dict[str, Vector]:
        """The vectors that every site gets in a round."""
        control = {CONTROL: self.control} if self._scaffold else {}
        return {"weights": self.model.weights, **control}

    def _step(self, current: RoundInProgress) -> None:
        self.model.apply(current.updates.result())
        if self._scaffold:
            # The server's control variate stays the mean of the sites' own, with the weights of the model's mean: with other
            # weights the corrections would not cancel, and training would drift. Sites that did not answer changed nothing.
            counted = sum(site.patients for site in current.counted.values())
            everybody = sum(described.parts["train"].patients for described in self.descriptions.values())
            self.control = self.control + current.controls.result() * np.float32(counted / everybody)

    def _tensors(self) -> dict[str, Vector]:
        tensors = {MODEL: self.model.weights}
        tensors |= {f"{OPTIMIZER}{name}": vector for name, vector in self.model.state().items()}
        if self._scaffold:
            tensors[CONTROL] = self.control
        return tensors

    # Which round is best

    def _judged(self, current: RoundInProgress) -> float | None:
        """How the model that entered the round did on tuning patients."""
        if current.summed is not None:
            return selection.score(self.protocol, [current.summed.tune])
        counted = [current.counted[site].tune for site in sorted(current.counted)]
        return selection.score(self.protocol, [tune for tune in counted if tune is not None])

    def _best_known(self) -> int:
        return selection.best_known(self.history, otherwise=self.round)

    def _out_of_patience(self) -> bool:
        patience = self.protocol.evaluation.patience
        return patience is not None and self.round - 1 - self._best_known() >= patience

    # Evaluate

    def evaluate(self) -> int:
        """Judge the last model and, if an earlier one did better on tuning patients, that one too; return the best."""
        last = self.round
        self._evaluate_model(last, self.model.weights)
        if self.protocol.evaluation.selection == "last":
            return last
        best = self._best_known()
        if best == last:
            return last
        evaluated = [reply.parts["tune"] for reply in self.journal.evaluations(last).values() if "tune" in reply.parts]
        tune = [self.journal.summed(last)["tune"]] if self._secure else evaluated
        known, final = self.history[best].selection, selection.score(self.protocol, tune)
        if known is None or (final is not None and final > known):
            return last
        tensors = self.journal.load_checkpoint(best)
        if tensors is None:
            raise StudyError(f"the checkpoint of round {best} is damaged: delete {self.journal.models} and run again")
        self._evaluate_model(best, tensors[MODEL])
        return best

    def _evaluate_model(self, model: int, weights: Vector) -> None:
        done = self.journal.evaluations(model)
        judged = [s for s, described in self.descriptions.items() if any(described.parts[part].patients for part in JUDGED)]
        if self._secure:
            self._evaluate_masked(model, weights, judged)
            return
        requests = {
            site: self._evaluate_request(site, self.sites.task(site, "evaluate", model)) for site in judged if site not in done
        }
        for site, message in self.sites.ask("evaluate", requests, {"weights": weights}):
            with self.sites.refusing(site, "evaluate", model):
                described = self.descriptions[site]
                reply = admission.admit_evaluation(message, protocol=self.protocol, described=described, parts=JUDGED)
                self.journal.add_evaluation(model, reply)
                crashpoint("study.evaluated")

    def _evaluate_masked(self, model: int, weights: Vector, sites: Sequence[str]) -> None:
        if self.journal.summed(model):
            return
        question = Question(
            "evaluate",
            model,
            request=self._evaluate_request,
            admit=lambda site, message: admission.admit_masked_evaluation(
                message, described=self.descriptions[site], parts=JUDGED
            ),
            length=lambda count: evaluation_layout(self.protocol, JUDGED, sites=count).length,
            vectors={"weights": weights},
        )
        for attempt in range(1, self.protocol.federation.attempts + 1):
            opened = self.masked.sum(question, sites, attempt=attempt, quorum=self._quorum)
            if opened is not None:
                together = evaluations_together(opened, self.protocol, JUDGED, self.descriptions)
                self.journal.set_summed(model, opened.replies.values(), together)
                self.masked.forget()
                return
        self._require_quorum(0, "could be evaluated together", round_=model)

    def _evaluate_request(self, site: str, task: Task, masking: MaskingSession | None = None) -> EvaluateRequest:
        return EvaluateRequest(
            task,
            layout=self.spec.sha256,
            normalization=self.normalization,
            basis=self._basis(site, task.round),
            parts=JUDGED,
            masking=masking,
        )

    def compare(self, best: int) -> None:
        """Let sites compare the model with clinicians' readings, and with the site's own model, where there are any."""
        if not comparing.worth_comparing(self.protocol):
            return
        done = self.journal.comparisons()
        requests = {}
        for site, reply in self.journal.evaluations(best).items():
            if "test" in reply.parts and site not in done:
                models = comparing.own_models(run=self.journal.run, model=best, personal="test" in reply.personal)
                task = self.sites.task(site, "compare", best)
                requests[site] = CompareRequest(task, first=comparing.FEDERATED, models=models)
        for site, message in self.sites.ask("compare", requests):
            with self.sites.refusing(site, "compare", best):
                tested = self.descriptions[site].parts["test"].patients
                asked = requests[site]
                compared = comparing.admit_comparison(message, request=asked, protocol=self.protocol, patients=tested)
                self.journal.add_comparison(compared)

    def explain(self, model: int, weights: Vector, *, brief: bool) -> None:
        """Let sites say, as sums over their patients, why the model after round ``model`` says what it says."""
        done = self.journal.explanations(model, brief=brief)
        requests = {
            site: ExplainRequest(
                self.sites.task(site, "explain", model, 1 if brief else 2),
                layout=self.spec.sha256,
                normalization=self.normalization,
                basis=self._basis(site, model),
                brief=brief,
            )
            for site, described in self.descriptions.items()
            if site not in done and explaining.patients_explained(self.protocol, described)
        }
        for site, message in self.sites.ask("explain", requests, {"weights": weights}):
            with self.sites.refusing(site, "explain", model):
                described = self.descriptions[site]
                reply = explaining.admit_explanation(message, protocol=self.protocol, described=described, brief=brief)
                self.journal.add_explanation(model, reply, brief=brief)

    def export(self, best: int, weights: Vector) -> None:
        """Write ``models/best.safetensors``: named tensors, with protocol and normalisation in its metadata."""
        self.spec.load(self.network, weights)
        metadata = {
            "protocol": self.protocol.canonical_json,
            "protocol_sha256": self.protocol.sha256,
            "run": self.journal.run,
            "round": str(best),
            "normalization": json.dumps(None if self.normalization is None else self.normalization.__dict__),
        }
        tensors_by_name = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        write_durably(self.journal.models / "best.safetensors", save(tensors_by_name, metadata=metadata))

    def _weights(self, best: int) -> Vector:
        tensors = None if best == self.round else self.journal.load_checkpoint(best)
        return tensors[MODEL] if tensors else self.model.weights

    def _basis(self, site: str, model: int) -> int:
        """The last round up to ``model`` in which the site's reply counted; 0 if none."""
        return max((record.round for record in self.history if record.round <= model and site in record.sites), default=0)

    # What must hold before going on

    @property
    def _scaffold(self) -> bool:
        return self.protocol.federation.client_rule.kind == "scaffold"

    @property
    def _secure(self) -> bool:
        return self.protocol.privacy.secure_sum

    @property
    def _quorum(self) -> int:
        return max(self._quorum_of_protocol, MINIMUM_SITES if self._secure else 1)

    @property
    def _quorum_of_protocol(self) -> int:
        return math.ceil(self.protocol.federation.quorum * len(self._partners) - 1e-9)

    @property
    def _external(self) -> tuple[str, ...]:
        return self.protocol.evaluation.external

    @property
    def _partners(self) -> tuple[str, ...]:
        """Enrolled sites that take part in training; the others are only described and evaluated."""
        return tuple(site for site in self.journal.enrolled if site not in self._external)

    def _require_quorum(self, count: int, what: str, *, round_: int = 0) -> None:
        if count >= self._quorum:
            return
        causes = {f.site: f.reason for f in self.journal.record().failures if f.round == round_}
        named = "; ".join(f"{site}: {reason}" for site, reason in sorted(causes.items()))
        raise StudyError(
            f"only {count} of {len(self._partners)} sites {what}, the protocol asks for {self._quorum} ({named}). "
            "Mend those sites and give the same command again: it goes on from here."
        )

    def _any_normalization(self) -> Normalization | None:
        """The run's normalisation, or a stand-in where each site has its own: the center's network only holds weights."""
        if self.normalization is not None or not self.protocol.variables:
            return self.normalization
        return pooled_normalization(self.descriptions.values(), self.protocol)
