"""Checks of the machine that would train: memory, disk, GPU, clock, and how long an epoch takes."""

import math
import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from client.cohort import Cohort
from client.cohort.cache import Slot
from client.preflight.checks import Check, Problem, check_of, skipped
from shared_model.network import PatientNetwork
from shared_model.protocol import StudyProtocol

_SPARE = 1.25  # of what is needed: a machine does other things too
_CHECKPOINTS = 4  # a worker keeps some, each with its optimiser's state
_CLOCK_TOLERANCE_S = 300.0
_TIMED_S = 3.0
_GIGA = 1e9


@dataclass(frozen=True)
class Trial:
    """One short timed piece of training: seconds a step, steps of an epoch, parameters of the network."""

    seconds: float
    steps: int
    parameters: int
    device: str


def machine_checks(
    cohort: Cohort | None, protocol: StudyProtocol | None, *, newest_file: Path, trial: Trial | None
) -> Iterator[Check]:
    """Memory and disk need a cohort and a protocol, and time a ``trial``; without one the check is skipped."""
    if cohort is None or protocol is None:
        yield skipped("memory", "Memory", "needs --study")
        yield skipped("disk", "Disk", "needs --study")
    else:
        yield _memory(cohort, trial)
        yield _disk(cohort, protocol, trial)
    yield _gpu()
    yield _clock(newest_file)
    yield _epoch(trial, protocol)


def timed_trial(cohort: Cohort, protocol: StudyProtocol) -> Trial:
    """Train a throw-away network of the study on a batch or a few: at most some seconds, after one batch to warm up."""
    from client.tasks.workbench import own_normalization
    from shared_model.network import build_network

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(protocol, normalization=own_normalization(cohort.tensors, cohort.parts, protocol), seed=0).to(
        device
    )
    network.train()
    index = cohort.parts["train"][: protocol.training.batch_size]
    steps = protocol.training.steps or math.ceil(len(cohort.parts["train"]) / protocol.training.batch_size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _step(network, cohort, index, device)
    started, done = time.perf_counter(), 0
    while done < 3 and (not done or time.perf_counter() - started < _TIMED_S):
        _step(network, cohort, index, device)
        done += 1
    return Trial((time.perf_counter() - started) / done, steps, parameters, device.type)


def _step(network: PatientNetwork, cohort: Cohort, index: torch.Tensor, device: torch.device) -> None:
    batch = cohort.tensors.batch(index).to(device)
    network.zero_grad()
    # Typed as Any by torch's stubs.
    loss = binary_cross_entropy_with_logits(network(batch), batch.label)
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize()


def _memory(cohort: Cohort, trial: Trial | None) -> Check:
    # What this check itself took at its peak is what training takes: cohort, network, one batch forward and back.
    needed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    if trial is not None:
        needed += 3 * 4.0 * trial.parameters  # the received model and the optimiser's two moments
    free = _available_memory() + _resident_memory()
    own = cohort.tensors.nbytes
    found = f"about {needed / _GIGA:.1f} GB needed, {own / _GIGA:.2f} GB of it the cohort; {free / _GIGA:.1f} GB there"
    if needed * _SPARE <= free:
        return check_of("memory", "Memory", found)
    problem = Problem("training may run out of memory", "close other programs, or ask for a smaller image size or batch")
    return check_of(
        "memory", "Memory", found, failures=[problem] if needed > free else (), warnings=[problem] if needed <= free else ()
    )


def _disk(cohort: Cohort, protocol: StudyProtocol, trial: Trial | None) -> Check:
    folder = Slot(f"{cohort.site}-{protocol.study.name}", "").path.parent
    while not folder.exists():
        folder = folder.parent
    parameters = trial.parameters if trial else 0
    needed = cohort.tensors.images.nbytes + _CHECKPOINTS * 3 * 4.0 * parameters
    free = float(shutil.disk_usage(folder).free)
    found = f"about {needed / _GIGA:.2f} GB needed, {free / _GIGA:.1f} GB free in {folder}"
    problem = Problem("the disk is nearly full", "make space, or set CONSILIUM_CACHE to a folder on another disk")
    return check_of("disk", "Disk", found, failures=[problem] if needed * _SPARE > free else ())


def _gpu() -> Check:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return check_of("gpu", "GPU", f"{torch.cuda.get_device_name(0)}, {memory / _GIGA:.0f} GB")
    if Path("/dev/nvidia0").exists():
        remedy = "install a CUDA build of torch and a driver that fits it; in a container, pass the device on"
        return check_of(
            "gpu", "GPU", "a GPU that torch cannot use", warnings=[Problem("training would run on the CPU", remedy)]
        )
    return check_of("gpu", "GPU", f"none; {os.cpu_count()} CPU cores train")


def _clock(newest_file: Path) -> Check:
    """A clock that is behind the data is wrong; certificates and deadlines depend on it."""
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    behind = max(newest_file.stat().st_mtime, Path(__file__).stat().st_mtime) - now
    if behind <= _CLOCK_TOLERANCE_S:
        return check_of("clock", "Clock", found)
    problem = Problem(f"files on this machine are {behind / 60:.0f} minutes newer than its clock", "set the clock, e.g. by NTP")
    return check_of("clock", "Clock", found, failures=[problem])


def _epoch(trial: Trial | None, protocol: StudyProtocol | None) -> Check:
    title = "Time of an epoch"
    if trial is None or protocol is None:
        return skipped(
            "epoch", title, "needs --study, and patients to train on" if protocol is None else "not measured (--fast)"
        )
    seconds = trial.seconds * trial.steps
    total = seconds * (protocol.training.epochs or 1)
    found = f"about {seconds:.2g} s for {trial.steps} steps on {trial.device}, {total:.2g} s a round"
    found += f"; a network of {trial.parameters:,} parameters"
    deadline = protocol.federation.deadline_s
    problem = Problem(
        f"a round takes {total:.0f} s, and the study waits {deadline:.0f} s",
        "use a GPU, or ask the center for a longer deadline",
    )
    return check_of("epoch", title, found, failures=[problem] if total > deadline else ())


def _available_memory() -> float:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024.0
    return math.inf


def _resident_memory() -> float:
    return float(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
