"""A center that draws a patient's picture from an update, in two ways. In closed form where pictures enter the network through
one layer, as patches enter a transformer (Lu et al. 2022); and by looking for a smooth picture whose gradient points the same
way (cosine distance and total variation, Geiping et al. 2020). A reconstruction tells of a patient if it is more like a picture
of the site than like any of as many pictures of strangers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from client.cohort import CohortTensors
from client.site_config import Policy
from client.training.private import train_privately
from shared_model import config_file, encoders
from shared_model.encoders import VisionTransformer
from shared_model.inputs import PatientBatch
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from tests.attacks.cohorts import SEED, SHIPPED, UNGUARDED, all_training, site, trained

pytestmark = pytest.mark.attacks
SIDE, PATCH = 32, 16
TRUNK = "image_tokens.encoder.trunk."
ONE_GRADIENT = {"optimizer": "sgd", "lr": 0.1, "steps": 1}
Attack = Callable[[StudyProtocol, dict[str, Tensor]], Tensor]


@pytest.fixture(autouse=True)
def _a_small_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/16 in small: all its layers, fewer of them and narrower, so that the attacks take seconds."""
    monkeypatch.setitem(
        encoders._TRUNKS, "vit_b_16", lambda channels, size: (VisionTransformer(channels, size, width=48, heads=2, depth=1), 48)
    )


def study(*, dp: dict[str, Any] | None = None, **training: Any) -> StudyProtocol:
    document = {
        "study": {"name": "pictures", "title": "t", "outcome": "o"},
        "images": {"size": SIDE, "per_patient": 1, "views": {"a": {}}},
        "network": {"kind": "image_only", "encoder": "vit_b_16", "width": 16, "heads": 2, "image_grid": 2, "dropout": 0.0},
        "training": training,
        "federation": {"rounds": 1},
        "privacy": {"dp": dp} if dp else {},
    }
    return config_file.validate(document, StudyProtocol, where="study.toml")


def pictures(count: int, *, seed: int) -> Tensor:
    """Speckle with a dark lesion in it, no two alike; uint8 ``[count, 1, SIDE, SIDE]``."""
    generator = torch.Generator().manual_seed(seed)
    speckle = F.avg_pool2d(torch.randn(count, 1, SIDE + 2, SIDE + 2, generator=generator), 3, stride=1) * 3.0
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    x, y, width, height = torch.rand(4, count, 1, 1, 1, generator=generator)
    lesion = ((columns - x + 0.5) / (0.2 + 0.3 * width)) ** 2 + ((rows - y + 0.5) / (0.2 + 0.3 * height)) ** 2 < 1.0
    return (255.0 * (0.5 + 0.1 * speckle - 0.3 * lesion).clamp(0.0, 1.0)).to(torch.uint8)


def cohort(count: int, *, seed: int) -> CohortTensors:
    place = torch.arange(count)
    return CohortTensors(
        images=pictures(count, seed=seed),
        slots=place[:, None],
        views=torch.zeros(count, 1, dtype=torch.int64),
        numeric=torch.zeros(count, 0),
        numeric_present=torch.zeros(count, 0, dtype=torch.bool),
        categorical=torch.zeros(count, 0, dtype=torch.int64),
        label=(place % 2 == 0).float(),
    )


def gradients(settings: StudyProtocol, update: np.ndarray) -> dict[str, Tensor]:
    """The update as the center reads it: downhill, by layer."""
    network = build_network(settings, normalization=None, seed=SEED)
    shared = ParameterSpec.of(network).shared
    parts = torch.from_numpy(-update).split([int(np.prod(shape)) for _, shape in shared])
    return {name: part.reshape(shape) for (name, shape), part in zip(shared, parts, strict=True)}


def in_closed_form(settings: StudyProtocol, found: dict[str, Tensor]) -> Tensor:
    """The gradient of the patches' layer is a sum over patches of what is wrong at each, times its pixels; what is wrong at
    each is the gradient of its position."""
    wrong = found[TRUNK + "position.weight"][1:]  # [patches, D]
    weight = found[TRUNK + "conv_proj.weight"].flatten(1)  # [D, pixels]
    patches = torch.linalg.lstsq(wrong.T.double(), weight.double()).solution.float()  # [patches, pixels]
    return F.fold(patches.T[None], SIDE, PATCH, stride=PATCH)[0]


def by_search(settings: StudyProtocol, found: dict[str, Tensor], *, steps: int = 300) -> Tensor:
    """The picture whose gradient points where the update does, and that is smooth; from a grey one."""
    network = build_network(settings, normalization=None, seed=SEED)
    parameters = [network.get_parameter(name) for name in found]
    label = (found["head.bias"] < 0).float()  # the residual's sign gives it away
    wanted = torch.cat([part.flatten() for part in found.values()])
    generator = torch.Generator().manual_seed(0)
    picture = (0.4 + 0.05 * torch.randn(1, 1, SIDE, SIDE, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    nothing = torch.zeros(1, 0)
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        for _ in range(steps):
            batch = PatientBatch(
                picture[None], torch.zeros(1, 1, dtype=torch.int64), nothing, nothing.bool(), nothing.long(), label
            )
            loss = F.binary_cross_entropy_with_logits(network(batch), label)
            guess = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
            distance = 1.0 - F.cosine_similarity(guess, wanted, dim=0)
            variation = picture.diff(dim=-1).abs().mean() + picture.diff(dim=-2).abs().mean()
            [picture.grad] = torch.autograd.grad(distance + 0.02 * variation, [picture])
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                picture.clamp_(0.0, 1.0)
    return picture.detach()[0]


def likeness(guess: Tensor, group: Tensor) -> float:
    """Correlation of ``guess`` with the picture of ``group`` that is most like it."""
    return max(float(np.corrcoef(guess.flatten(), picture.flatten())[0, 1]) for picture in group)


@dataclass(frozen=True)
class Likeness:
    """How like the reconstruction is to the picture that is most like it: of the site's ones, and of as many strangers'.

    A mean of forty pictures is a little like each of them, so that some of the difference is nobody's picture.
    """

    site: float
    strangers: float

    @property
    def recovered(self) -> bool:
        return self.site > 0.7 and self.site > self.strangers + 0.2

    @property
    def tells_nothing(self) -> bool:
        return self.site < 0.6 and self.site < self.strangers + 0.2


def seen(folder: Path, settings: StudyProtocol, attack: Attack, *, patients: int, policy: Policy) -> Likeness | None:
    """What ``attack`` makes of the update of a site; None if the site declines."""
    data = cohort(patients, seed=1)
    update = trained(site(folder, all_training(data), policy=policy), settings)
    if update is None:
        return None
    guess = attack(settings, gradients(settings, update))
    return Likeness(likeness(guess, data.images), likeness(guess, pictures(patients, seed=2)))


ATTACKS = pytest.mark.parametrize("attack", [in_closed_form, by_search])


@ATTACKS
def test_a_picture_is_drawn_from_the_gradient_of_a_single_patient(tmp_path: Path, attack: Attack) -> None:
    found = seen(tmp_path, study(**ONE_GRADIENT, batch_size=1), attack, patients=1, policy=UNGUARDED)
    assert found is not None
    assert found.recovered


@pytest.mark.parametrize(
    "training", [ONE_GRADIENT, {"optimizer": "adamw", "lr": 1e-3, "steps": 1}, ONE_GRADIENT | {"steps": 5}]
)
def test_no_site_sends_the_gradient_of_a_few_patients_however_many_it_has(tmp_path: Path, training: dict[str, Any]) -> None:
    """A protocol may ask for a step on one patient out of many."""
    asked = {"settings": study(**training, batch_size=1), "attack": in_closed_form, "patients": 40}
    assert seen(tmp_path / "shipped", **asked, policy=SHIPPED) is None  # type: ignore[arg-type]
    assert seen(tmp_path / "unguarded", **asked, policy=UNGUARDED) is not None  # type: ignore[arg-type]


def test_it_would_show_a_patient_s_picture(tmp_path: Path) -> None:
    found = seen(tmp_path, study(**ONE_GRADIENT, batch_size=1), in_closed_form, patients=40, policy=UNGUARDED)
    assert found is not None
    assert found.recovered


SHIPPED_UPDATES = {
    "the most telling update that leaves": ONE_GRADIENT | {"batch_size": 40},
    "one pass of AdamW": {"optimizer": "adamw", "lr": 1e-3, "epochs": 1, "batch_size": 16},
}


@ATTACKS
@pytest.mark.parametrize("training", SHIPPED_UPDATES.values(), ids=SHIPPED_UPDATES)
def test_no_picture_is_drawn_from_what_a_site_sends(tmp_path: Path, training: dict[str, Any], attack: Attack) -> None:
    found = seen(tmp_path, study(**training), attack, patients=40, policy=SHIPPED)
    assert found is not None
    assert found.tells_nothing


@ATTACKS
@pytest.mark.parametrize("patients", [1, 40])
def test_no_picture_is_drawn_from_a_private_update(tmp_path: Path, patients: int, attack: Attack) -> None:
    """Noise alone protects even a site of one patient that nothing else guards."""
    settings = study(**ONE_GRADIENT, batch_size=16, dp={"epsilon": 8.0})
    found = seen(tmp_path, settings, attack, patients=patients, policy=UNGUARDED)
    assert found is not None
    assert found.tells_nothing


@ATTACKS
def test_it_would_be_if_there_were_no_noise(tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping does not turn a gradient."""
    silent = {"noise_multiplier": 0.0}
    monkeypatch.setattr("client.tasks.train.train_privately", lambda *given, **kept: train_privately(*given, **kept | silent))
    settings = study(**ONE_GRADIENT, batch_size=16, dp={"epsilon": 8.0})
    found = seen(tmp_path, settings, attack, patients=1, policy=UNGUARDED)
    assert found is not None
    assert found.recovered
