"""From a study file and site files to a run directory with results: what ``consilium-center simulate`` does."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from server import baselines, comparing, pairing, run_directory
from server.designing import carry_out_design, make_arms
from server.designs import read_design
from server.journal import Journal
from server.progress import ProgressDisplay
from server.records import ArmKind, RunRecord
from server.results import write_results
from server.run_directory import RunPlan
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import Pretrained, StudyProtocol, read_protocol
from shared_model.protocol_words import PICTURED

if TYPE_CHECKING:
    from server.simulation import Worker

Engine = Literal["in-process", "flower", "ray"]


@dataclass(frozen=True)
class Simulation:
    """A run to start or to resume. ``sites`` maps names to site files."""

    protocol: StudyProtocol
    study_file: Path
    sites: dict[str, Path]
    out: Path
    seed: int
    engine: Engine
    threads: int

    @property
    def plan(self) -> RunPlan:
        """What decides the run."""
        return RunPlan(self.protocol, self.study_file, tuple(self.sites), self.out, self.seed, self.engine, self.threads)


def prepare(
    study_file: Path,
    site_files: Sequence[Path],
    *,
    out: Path,
    seed: int,
    rounds: int | None = None,
    epsilon: float | None = None,
    pretrained: Path | None = None,
    engine: Engine = "in-process",
    threads: int | None = None,
    external: Sequence[Path] = (),
) -> Simulation:
    """Check every file, and every site's data against the protocol, before anything is written. The sites of the files
    ``external`` are evaluated, and take no part in training.

    Raises:
        ConfigurationError: with the faults of all files together; or ``out`` holds the run of something else.
    """
    from server.simulation import read_sites

    faults: list[Fault] = []
    try:
        protocol = read_protocol(study_file)
    except ConfigurationError as error:
        faults += error.faults
    try:
        sites = read_sites([*site_files, *external])
    except ConfigurationError as error:
        faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    if external:
        names = tuple(name for name, file in sites.items() if file in external)
        known = (*protocol.evaluation.external, *(name for name in names if name not in protocol.evaluation.external))
        protocol = protocol.model_copy(update={"evaluation": protocol.evaluation.model_copy(update={"external": known})})
    if rounds is not None:
        protocol = protocol.model_copy(update={"federation": protocol.federation.model_copy(update={"rounds": rounds})})
    if epsilon is not None:
        protocol = _with_epsilon(protocol, epsilon, study_file)
    if pretrained is not None:
        protocol = _with_encoder(protocol, pretrained)
    simulation = Simulation(
        protocol=protocol,
        study_file=study_file,
        sites=sites,
        out=out,
        seed=seed,
        engine=engine,
        threads=threads or os.cpu_count() or 1,
    )
    run_directory.refuse_another_run(simulation.plan)
    return simulation


def _with_epsilon(protocol: StudyProtocol, epsilon: float, study_file: Path) -> StudyProtocol:
    """``protocol`` with another epsilon; without differential privacy, all else the same, if it is infinite."""
    dp = protocol.privacy.dp
    if dp is None or not epsilon > 0.0:
        found = f"{epsilon:g}" if dp else f"{epsilon:g}, for a study without differential privacy"
        raise ConfigurationError(
            [
                Fault(
                    "--epsilon",
                    "",
                    found,
                    "a number above 0, or inf, in place of privacy.dp.epsilon",
                    f"mend it or {study_file}",
                )
            ]
        )
    other = dp.model_copy(update={"epsilon": epsilon}) if math.isfinite(epsilon) else None
    return protocol.model_copy(update={"privacy": protocol.privacy.model_copy(update={"dp": other})})


def _with_encoder(protocol: StudyProtocol, file: Path) -> StudyProtocol:
    """``protocol`` with the weights in ``file`` for its picture encoder to begin with."""
    try:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        expected, remedy = "a safetensors file of the encoder's weights", "name models/best.safetensors of a run"
        raise ConfigurationError([Fault(str(file), "--pretrained", f"{error.strerror}", expected, remedy)]) from None
    if protocol.images is None or protocol.network.kind not in PICTURED:
        expected = f"network.kind {' or '.join(sorted(PICTURED))}"
        raise ConfigurationError(
            [Fault("--pretrained", "", f'network.kind "{protocol.network.kind}"', expected, "leave the option out")]
        )
    encoder = Pretrained(file=str(file.resolve()), sha256=sha256)
    return protocol.model_copy(update={"network": protocol.network.model_copy(update={"pretrained": encoder})})


@dataclass(frozen=True)
class Extent:
    """What a simulation does beyond the study itself: comparators ``arms`` (also in each fold), so many ``folds`` of a
    cross-validation, a study without each site."""

    arms: tuple[ArmKind, ...] = ()
    folds: int | None = None
    leave_one_site_out: bool = False


def simulate(simulation: Simulation, *, extent: Extent, console: Console) -> RunRecord:
    """Run or resume to the end, with all that ``extent`` asks for, and write the results. Returns the finished run.

    Raises:
        ConfigurationError: sites' files do not fit, or sites would be evaluated that lack layers of their own; nothing is
            written then.
        StudyError: the study cannot go on, or another command is at work in the same run directory. Where only a study of
            the design cannot, the others are carried out first, and the results written.
    """
    from server.simulation import open_workers

    _refuse_sites_without_own_layers(simulation.protocol, extent)
    out = simulation.out
    workers = open_workers(simulation.sites, simulation.protocol, state=out / "sites", threads=simulation.threads)
    out.mkdir(parents=True, exist_ok=True)
    with run_directory.alone_in(out):
        record = _train(simulation, workers, console)
        _compare(record, workers, out, extent.arms, console)
        try:
            carry_out_design(record, workers, out, extent, console)
        finally:
            report(out)
    return record


def _refuse_sites_without_own_layers(protocol: StudyProtocol, extent: Extent) -> None:
    personal = protocol.federation.personal
    if personal and (protocol.evaluation.external or extent.leave_one_site_out):
        expected = "none, where a site is evaluated that does not train: it has no layers of its own"
        remedy = "remove federation.personal, or --leave-one-site-out and external sites"
        raise ConfigurationError([Fault("study protocol", "federation.personal", ", ".join(personal), expected, remedy)])


def _train(simulation: Simulation, workers: "Mapping[str, Worker]", console: Console) -> RunRecord:
    from server.simulation import run_engine

    out = simulation.out
    if not run_directory.is_made(out):
        run_directory.create(simulation.plan)
    with Journal(out) as journal:
        finished = journal.finished
    if finished:
        console.print(f"{out} holds this run, finished; nothing to train.", soft_wrap=True)
    else:
        with ProgressDisplay(out, console=console):
            run_engine(simulation.engine, out, workers=workers, sites=simulation.sites, threads=simulation.threads)
    with Journal(out) as journal:
        return journal.record()


def _compare(record: RunRecord, workers: "Mapping[str, Worker]", out: Path, kinds: Sequence[ArmKind], console: Console) -> None:
    """Make the comparators that are missing, and let each site compare all of them."""
    if not kinds:
        return
    make_arms(record, workers, out, kinds, console, state=out / "sites")
    if not comparing.allowed(record.protocol):
        return
    with Journal(out) as journal:
        for reply in pairing.compare_arms(record, baselines.read_arms(out), workers):
            journal.add_comparison(reply)


def report(out: Path) -> None:
    """Write results.json, per_site.csv, figures and report.html of the run in ``out`` as it stands.

    Raises:
        StudyError: there is no run in ``out``.
    """
    with Journal(out) as journal:
        record = journal.record()
    write_results(out, record, baselines.read_arms(out), read_design(out))
