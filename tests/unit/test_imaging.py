import pytest
import torch

from shared_model.imaging import augment
from shared_model.protocol import Augmentation

EVERYTHING = Augmentation(
    flip=True, rotate_degrees=20.0, scale=0.2, shift=0.1, brightness=0.3, contrast=0.3, gamma=0.3, noise=0.2
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*, patients: int = 6, slots: int = 2, channels: int = 1, size: int = 24) -> torch.Tensor:
    return torch.rand(patients, slots, channels, size, size, generator=generator(99))


def test_without_settings_the_input_comes_back_untouched_and_nothing_is_drawn() -> None:
    images, source = pictures(), generator()
    before = source.get_state()
    assert augment(images, augmentation=Augmentation(), generator=source) is images
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("shape", [(0, 2, 1, 8, 8), (3, 0, 1, 8, 8)])
def test_no_patients_or_no_slots(shape: tuple[int, ...]) -> None:
    assert augment(torch.zeros(shape), augmentation=EVERYTHING, generator=generator()).shape == shape


def test_the_generator_alone_decides() -> None:
    images = pictures()
    torch.manual_seed(1)
    first = augment(images, augmentation=EVERYTHING, generator=generator(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, augment(images, augmentation=EVERYTHING, generator=generator(5)))
    assert not torch.equal(first, augment(images, augmentation=EVERYTHING, generator=generator(6)))
    assert torch.equal(torch.get_rng_state(), state)


def test_input_is_left_as_it_was_and_output_stays_in_range() -> None:
    images = pictures(channels=2)
    copy = images.clone()
    changed = augment(images, augmentation=EVERYTHING, generator=generator())
    assert torch.equal(images, copy)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0


def test_a_flip_is_exact_and_of_all_images_of_a_patient_or_none() -> None:
    images = pictures(patients=20, channels=2)
    changed = augment(images, augmentation=Augmentation(flip=True), generator=generator())
    flipped = [torch.equal(after, before.flip(-1)) for before, after in zip(images, changed, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, changed, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 0 < sum(flipped) < 20


def test_geometry_moves_the_mask_with_the_image() -> None:
    grey = (pictures(patients=4)[:, :, 0] > 0.5).float()
    images = torch.stack([grey, grey], dim=2)
    geometry = Augmentation(flip=True, rotate_degrees=30.0, scale=0.2, shift=0.2)
    changed = augment(images, augmentation=geometry, generator=generator())
    assert torch.equal(changed[:, :, 0], changed[:, :, 1])
    assert not torch.equal(changed, images)


def test_intensity_leaves_the_mask_and_black_alone() -> None:
    images = pictures(channels=2)
    images[:, :, 0, :5] = 0.0
    images[:, 1] = 0.0  # an empty slot
    intensity = Augmentation(brightness=0.5, contrast=0.5, gamma=0.5, noise=0.3)
    changed = augment(images, augmentation=intensity, generator=generator())
    assert torch.equal(changed[:, :, 1], images[:, :, 1])
    assert not changed[:, :, 0, :5].any()
    assert not changed[:, 1].any()
    assert not torch.equal(changed[:, 0, 0], images[:, 0, 0])


def spot(size: int, *, row: int, column: int) -> torch.Tensor:
    image = torch.zeros(1, 1, 1, size, size)
    image[..., row, column] = 1.0
    return image


def center(image: torch.Tensor) -> torch.Tensor:
    """Center of mass from the image's middle, in pixels (right, down)."""
    size = image.shape[-1]
    place = torch.arange(size) - (size - 1) / 2
    mass = image[0, 0, 0] / image.sum()
    return torch.stack([(mass.sum(0) * place).sum(), (mass.sum(1) * place).sum()])


@pytest.mark.parametrize("seed", range(5))
def test_rotation_keeps_the_distance_to_the_middle_and_its_limit(seed: int) -> None:
    image = spot(41, row=20, column=32)
    turned = center(augment(image, augmentation=Augmentation(rotate_degrees=30.0), generator=generator(seed)))
    assert turned.norm() == pytest.approx(12.0, abs=0.05)
    assert abs(torch.rad2deg(torch.atan2(turned[1], turned[0]))) <= 30.5


@pytest.mark.parametrize("seed", range(5))
def test_zoom_and_shift_stay_within_their_limits(seed: int) -> None:
    image = spot(41, row=20, column=30)
    zoomed = center(augment(image, augmentation=Augmentation(scale=0.5), generator=generator(seed)))
    assert 10 / 1.5 - 0.05 <= zoomed[0] <= 15.05
    assert abs(zoomed[1]) < 0.05
    moved = center(augment(image, augmentation=Augmentation(shift=0.2), generator=generator(seed)))
    assert (moved - torch.tensor([10.0, 0.0])).abs().max() <= 0.2 * 41 + 0.05


def test_intensity_changes_follow_their_formulas() -> None:
    flat = torch.full((50, 1, 1, 4, 4), 0.5)
    brighter = augment(flat, augmentation=Augmentation(brightness=0.4), generator=generator())[:, 0, 0, 0, 0]
    assert 0.3 <= brighter.min() < 0.35
    assert 0.65 < brighter.max() <= 0.7
    gamma = augment(flat, augmentation=Augmentation(gamma=1.0), generator=generator())[:, 0, 0, 0, 0]
    assert 0.25 <= gamma.min() < 0.28
    assert 0.66 < gamma.max() <= 0.5**0.5 + 1e-6
    assert torch.allclose(augment(flat, augmentation=Augmentation(contrast=1.0), generator=generator()), flat)
    speckle = augment(torch.full((200, 1, 1, 16, 16), 0.5), augmentation=Augmentation(noise=0.1), generator=generator())
    spread = speckle.std(dim=(1, 2, 3, 4))  # 0.5 times a strength drawn from 0..0.1
    assert spread.max() < 0.06
    assert spread.mean() == pytest.approx(0.025, abs=0.004)
