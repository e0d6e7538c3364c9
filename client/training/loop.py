"""The local training loop: one round at one site, from a seed, on CPU or GPU."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.cohort.tensors import CohortTensors
from client.training.rules import Correction
from shared_model.errors import FailureCode, RefusedError
from shared_model.imaging import augment
from shared_model.inputs import PatientBatch
from shared_model.network import PatientNetwork
from shared_model.protocol import Training

# Share of the GPU's free memory that a cohort may take to stay there between steps.
RESIDENT_SHARE = 0.5


@dataclass(frozen=True)
class LocalTraining:
    """What one round of local training did. ``loss`` is the patients' mean, None where it must not be told (private training).
    ``rate_sum`` adds up the learning rates of its steps (SCAFFOLD needs it)."""

    steps: int
    loss: float | None
    rate_sum: float


def train_locally(
    network: PatientNetwork,
    cohort: CohortTensors,
    index: Tensor,
    *,
    training: Training,
    parameters: Sequence[nn.Parameter],
    correction: Correction,
    round_: int,
    rounds: int,
    seed: int,
) -> LocalTraining:
    """Train ``network`` in place on patients ``index`` int64 ``[n]`` of ``cohort`` for one round.

    ``parameters`` are those that ``correction`` acts on, in its order. Every random draw (order of patients,
    augmentation, dropout) follows from ``seed``; the process's own random state is left as it was.

    Raises:
        RefusedError: ``TRAINING_DIVERGED`` if the loss stops being finite.
    """
    device = next(network.parameters()).device
    steps = steps_per_round(training, patients=len(index))
    optimizer = make_optimizer(network, training)
    positive_weight = _positive_weight(cohort.label[index.to(cohort.label.device)], training).to(device)
    generator = torch.Generator().manual_seed(seed)
    forward: Callable[[PatientBatch], Tensor] = torch.compile(network) if training.compile else network
    total, seen, rate_sum = torch.zeros((), device=device), 0, 0.0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.train()
        for step, members in enumerate(_batches(index, training.batch_size, steps=steps, generator=generator)):
            rate = training.lr * rate_factor(training, progress=(round_ - 1 + step / steps) / rounds, rounds=rounds)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = _fetch(cohort, members, device=device, training=training, generator=generator)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = forward(batch)  # [B]
            loss = binary_cross_entropy_with_logits(logits.float(), batch.label, pos_weight=positive_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if training.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
            correction(parameters)
            optimizer.step()
            total += loss.detach() * len(batch)
            seen += len(batch)
            rate_sum += rate
    mean_loss = float(total) / seen
    if not math.isfinite(mean_loss):
        raise RefusedError(FailureCode.TRAINING_DIVERGED, f"training loss {mean_loss} after {steps} steps")
    return LocalTraining(steps=steps, loss=mean_loss, rate_sum=rate_sum)


def steps_per_round(training: Training, *, patients: int) -> int:
    """Optimiser steps of one round at a site with ``patients`` training patients."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    return training.epochs * math.ceil(patients / training.batch_size)


def rate_factor(training: Training, *, progress: float, rounds: int) -> float:
    """Learning rate relative to ``training.lr`` at ``progress`` 0..1 through all rounds: warm-up, then the schedule."""
    warm = training.warmup_rounds / rounds
    if progress < warm:
        return (progress + 1.0 / rounds) / (warm + 1.0 / rounds)
    if training.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (progress - warm) / (1.0 - warm)))
    return 1.0


def resident(cohort: CohortTensors, device: torch.device) -> CohortTensors:
    """``cohort`` on ``device`` if it fits beside the network, else where it is."""
    if device.type != "cuda":
        return cohort
    free, _ = torch.cuda.mem_get_info(device)
    return cohort.to(device) if cohort.nbytes < RESIDENT_SHARE * free else cohort


def make_optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser of one round, without memory of earlier ones."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=training.weight_decay)


def _positive_weight(labels: Tensor, training: Training) -> Tensor:
    positives = labels.sum()
    negatives = len(labels) - positives
    if training.class_weighting == "none" or positives == 0 or negatives == 0:
        return torch.ones(())
    return negatives / positives


def _batches(index: Tensor, size: int, *, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """``steps`` batches of patients: each epoch a new order, cut into batches, the last one maybe smaller."""
    taken = 0
    while taken < steps:
        for members in torch.split(index[torch.randperm(len(index), generator=generator)], size):
            yield members
            taken += 1
            if taken == steps:
                return


def _fetch(
    cohort: CohortTensors, members: Tensor, *, device: torch.device, training: Training, generator: torch.Generator
) -> PatientBatch:
    batch = cohort.batch(members.to(cohort.label.device)).to(device)
    if not batch.images.numel():
        return batch
    return batch.with_images(augment(batch.images, augmentation=training.augmentation, generator=generator))
