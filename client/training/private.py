"""Private local training: DP-SGD (Abadi et al. 2016) with the training patient as the unit.

Every step draws each patient by itself with one probability (Poisson sampling), clips the gradient of each drawn patient,
adds Gaussian noise to their sum, and divides by the expected number of patients. The client rule, weight decay and the mean
of weights act on what that gives, and cost no privacy. No loss leaves: it would tell of the patients without noise.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from client.cohort.tensors import CohortTensors
from client.training.entropy import seed_globals
from client.training.loop import LocalTraining, make_optimizer, rate_factor, steps_per_round
from client.training.patient_gradients import PatientGradients
from client.training.rules import Correction
from shared_model.errors import FailureCode, RefusedError
from shared_model.imaging import augment
from shared_model.inputs import PatientBatch
from shared_model.network import PatientNetwork
from shared_model.protocol import Training
from shared_model.protocol_privacy import DifferentialPrivacy


@dataclass(frozen=True)
class Mechanism:
    """What one round of private training does to a patient: ``steps`` times the Gaussian mechanism on a Poisson sample.

    ``noise_multiplier`` is the noise's standard deviation in units of the clipping norm, ``sampling_rate`` the chance of a
    patient to take part in a step.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


def sampling_rate(training: Training, *, patients: int) -> float:
    """The chance of each of ``patients`` to take part in a step."""
    return min(1.0, training.batch_size / patients)


def train_privately(
    network: PatientNetwork,
    cohort: CohortTensors,
    index: Tensor,
    *,
    training: Training,
    dp: DifferentialPrivacy,
    noise_multiplier: float,
    parameters: Sequence[nn.Parameter],
    correction: Correction,
    round_: int,
    rounds: int,
    generator: torch.Generator,
) -> LocalTraining:
    """Train ``network`` in place on patients ``index`` int64 ``[n]`` of ``cohort`` for one round.

    ``parameters`` are those that ``correction`` acts on, in its order. Everything random follows from ``generator``, a
    CPU generator: sampling, noise, augmentation and dropout. The process's own random state is left as it was.

    Raises:
        RefusedError: ``TRAINING_DIVERGED`` if a parameter stops being finite; ``MODEL_REFUSED`` if gradients of single
            patients cannot be had.
    """
    device = next(network.parameters()).device
    steps = steps_per_round(training, patients=len(index))
    rate = sampling_rate(training, patients=len(index))
    optimizer = make_optimizer(network, training)
    mean = _WeightMean(network, decay=dp.ema) if dp.ema is not None else None
    rate_sum = 0.0
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        PatientGradients(network, dp) as gradients,
    ):
        seed_globals(generator, device)
        for step in range(steps):
            lr = training.lr * rate_factor(training, progress=(round_ - 1 + step / steps) / rounds, rounds=rounds)
            for group in optimizer.param_groups:
                group["lr"] = lr
            gradients.clear()
            drawn = index[torch.rand(len(index), generator=generator, dtype=torch.float64) < rate]
            for batch in _batches(cohort, drawn, device=device, training=training, dp=dp, generator=generator):
                gradients.add(batch)
            for parameter, total in zip(gradients.parameters, gradients.total, strict=True):
                noise = torch.randn(total.shape, generator=generator, dtype=torch.float64) * (noise_multiplier * dp.clip_norm)
                parameter.grad = ((total.double() + noise.to(device)) / (rate * len(index))).to(parameter.dtype)
            correction(parameters)
            optimizer.step()
            if mean is not None:
                mean.update()
            rate_sum += lr
    if mean is not None:
        mean.write()
    # What is looked at here is noisy already, so that the refusal tells nothing that the update would not.
    if not all(bool(parameter.isfinite().all()) for parameter in gradients.parameters):
        raise RefusedError(FailureCode.TRAINING_DIVERGED, f"parameters that are not finite after {steps} private steps")
    return LocalTraining(steps=steps, loss=None, rate_sum=rate_sum)


class _WeightMean:
    """Exponential mean of the trainable weights after each step, the early ones not overweighted."""

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.weight = 0.0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the mean."""
        self.weight = self.decay * self.weight + (1.0 - self.decay)
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total.mul_(self.decay).add_(parameter, alpha=1.0 - self.decay)

    @torch.no_grad()
    def write(self) -> None:
        """Put the mean in place of the weights."""
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            parameter.copy_(total / self.weight)


def _batches(
    cohort: CohortTensors,
    drawn: Tensor,
    *,
    device: torch.device,
    training: Training,
    dp: DifferentialPrivacy,
    generator: torch.Generator,
) -> Iterator[PatientBatch]:
    """The patients ``drawn`` int64 ``[b]``, in pieces that fit into memory; each patient's copies one after another."""
    copies = dp.augmentation_multiplicity
    for members in torch.split(drawn, max(1, math.ceil(dp.physical_batch / copies))):
        if not len(members):
            continue
        batch = cohort.batch(members.to(cohort.label.device)).to(device)
        if copies > 1:
            repeated = {f.name: getattr(batch, f.name).repeat_interleave(copies, dim=0) for f in fields(batch)}
            batch = replace(batch, **repeated)
        if batch.images.numel():
            batch = batch.with_images(augment(batch.images, augmentation=training.augmentation, generator=generator))
        yield batch
