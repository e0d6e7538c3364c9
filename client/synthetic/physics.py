"""How an ultrasound machine turns scatterers into a picture.

Scatterers are a complex Gaussian field scaled by how strongly tissue echoes and by how much of the pulse still gets there;
a point-spread function that widens away from the focus blurs them; the envelope of the sum is speckle. The machine amplifies
with depth what tissue took on the way, and with it its own noise, and shows the logarithm. Formulas in complex baseband: the
magnitude there is the envelope of the radio-frequency signal.

Notation: ``B`` pictures of a batch, ``D`` depth samples, ``L`` beams; ``S`` = ``Scanner.pixels``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # float32 [B, D, L], or with an axis of 1 where it does not vary

SOUND_MM_PER_US = 1.54
TISSUE_LOSS = 0.55  # dB / (cm MHz) one way, what the machine's time-gain compensation assumes
_CEILING_DB = 27.0  # of display white above the mean echo of normal gland
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Scanner:
    """A machine and its settings.

    Attributes:
        label: preset and probe, as printed on the picture.
        pixels: side of the square picture; ``field_mm`` its side in mm.
        frequency_mhz: decides wavelength, hence resolution, and attenuation.
        focus_mm: depth at which beams are narrowest; ``f_number`` is depth over aperture there.
        cycles: of a pulse; fewer resolve finer in depth.
        dynamic_range_db, gain_db, gamma: of the display.
        smoothing: share of a pixel that the machine's speckle filter takes from its neighbours, 0 to 0.5.
        noise_db: electronic noise before amplification, against the echo of gland at the skin.
        radius_mm: of a curved array, whose picture is a sector; None for a linear one, whose picture is a rectangle.
        caliper_share: of its pictures that show measuring crosses.
    """

    label: str = "THYROID 12L"
    pixels: int = 224
    field_mm: float = 40.0
    frequency_mhz: float = 12.0
    focus_mm: float = 18.0
    f_number: float = 2.2
    cycles: float = 2.0
    dynamic_range_db: float = 62.0
    gain_db: float = 0.0
    gamma: float = 1.0
    smoothing: float = 0.4
    noise_db: float = -78.0
    radius_mm: float | None = None
    caliper_share: float = 0.0

    @property
    def mm_per_pixel(self) -> float:
        """Side of a pixel."""
        return self.field_mm / self.pixels

    @property
    def axial_fwhm_mm(self) -> float:
        """Width at half height of the pulse."""
        return 0.5 * self.cycles * SOUND_MM_PER_US / self.frequency_mhz

    def lateral_fwhm_mm(self, depth: Field) -> Field:
        """Width at half height of the beam at ``depth`` in mm."""
        wavelength = SOUND_MM_PER_US / self.frequency_mhz
        narrowest = 1.2 * wavelength * self.f_number
        depth_of_field = 7.0 * wavelength * self.f_number**2
        return np.asarray(narrowest * np.sqrt(1.0 + ((depth - self.focus_mm) / depth_of_field) ** 2), dtype=np.float32)

    @cached_property
    def depth(self) -> Field:
        """Distance from the probe of each sample in mm, ``[1, S, 1]``."""
        return np.asarray((np.arange(self.pixels) + 0.5) * self.mm_per_pixel, dtype=np.float32)[None, :, None]

    @cached_property
    def beams(self) -> tuple[Field, Field]:
        """Place of each sample: x to the right of the middle and y below the skin in mm, broadcastable to ``[1, S, S]``."""
        across = np.asarray((np.arange(self.pixels) + 0.5) * self.mm_per_pixel - self.field_mm / 2.0, np.float32)[None, None, :]
        if self.radius_mm is None:
            return across, self.depth
        angle = across / self.field_mm * self._opening
        reach = self.radius_mm + self.depth
        return reach * np.sin(angle), reach * np.cos(angle) - np.float32(self.radius_mm)

    @cached_property
    def raster(self) -> tuple[Field, Field]:
        """As ``beams``, of the pixels of the picture."""
        middle = np.asarray((np.arange(self.pixels) + 0.5) * self.mm_per_pixel, dtype=np.float32)
        return middle[None, None, :] - np.float32(self.field_mm / 2.0), middle[None, :, None]

    @property
    def _opening(self) -> float:
        """Angle between the outermost beams, so that the deepest part of the sector just fits the picture."""
        assert self.radius_mm is not None
        return 2.0 * float(np.arcsin(0.5 * self.field_mm / (self.radius_mm + self.field_mm)))

    @cached_property
    def _lookup(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """Of each pixel: index of the sample up and left of it, weights of its four neighbours, whether it is in the sector."""
        assert self.radius_mm is not None
        x, y = (np.broadcast_to(part[0], (self.pixels, self.pixels)) for part in self.raster)
        reach = np.hypot(x, y + self.radius_mm)
        down = (reach - self.radius_mm) / self.mm_per_pixel - 0.5
        right = (np.arctan2(x, y + self.radius_mm) / self._opening + 0.5) * self.pixels - 0.5
        last = self.pixels - 1
        inside = (down >= -0.5) & (down <= last + 0.5) & (right >= -0.5) & (right <= last + 0.5)
        top, left = (np.clip(np.floor(part), 0, last - 1).astype(np.int64) for part in (down, right))
        v, u = np.clip(down - top, 0.0, 1.0), np.clip(right - left, 0.0, 1.0)
        weights = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u]).astype(np.float32)
        return top * self.pixels + left, weights, inside

    def scan_convert(self, samples: Field) -> Field:
        """Samples of the beams ``[B, S, S]`` as pixels ``[B, S, S]``; 0 outside the field of view."""
        if self.radius_mm is None:
            return samples
        first, weights, inside = self._lookup
        flat = samples.reshape(len(samples), -1)
        steps = (0, 1, self.pixels, self.pixels + 1)
        pixels = sum(weight * flat[:, first + step] for step, weight in zip(steps, weights, strict=True))
        return np.asarray(pixels * inside, dtype=np.float32)

    @cached_property
    def in_view(self) -> NDArray[np.bool_]:
        """Pixels of the field of view, ``[S, S]``."""
        return np.ones((self.pixels, self.pixels), np.bool_) if self.radius_mm is None else self._lookup[2]


def acquire(echo_db: Field, loss: Field, *, scanner: Scanner, rng: np.random.Generator) -> Field:
    """The picture of tissue: grey levels 0..1, ``[B, S, S]``.

    Args:
        echo_db: backscatter of each sample of ``scanner.beams`` in dB against normal gland.
        loss: attenuation there in dB / (cm MHz), one way.
    """
    echo = 10.0 ** ((echo_db - _two_way_db(loss, scanner)) / 20.0)
    received = envelope(echo, scanner=scanner, rng=rng, noise=10.0 ** (scanner.noise_db / 20.0))
    return scanner.scan_convert(_display(received, scanner))


def envelope(echo: Field, *, scanner: Scanner, rng: np.random.Generator, noise: float = 0.0) -> Field:
    """Envelope of the echoes of random scatterers of amplitude ``echo`` ``[B, D, L]``, blurred by the point-spread function.

    Where ``echo`` is even over several resolution cells and there is no noise, the result is Rayleigh distributed with mean
    square ``echo ** 2``.
    """
    scatterers = _complex_noise(echo.shape, rng) * echo
    spectrum = np.fft.fft(scatterers, axis=2) * _lateral_response(scanner)
    blurred = _axial_blur(scanner) @ np.fft.ifft(spectrum, axis=2)
    if noise:
        blurred += np.float32(noise) * _complex_noise(echo.shape, rng)
    return np.abs(blurred)


def smooth_noise(
    shape: tuple[int, int, int], *, across: float | Field, along: float | Field, rng: np.random.Generator
) -> Field:
    """Gaussian noise of mean 0 and variance 1, correlated over a Gaussian of so many samples across and along, ``shape``.

    ``across`` and ``along`` are standard deviations, numbers or ``[B, 1, 1]``.
    """
    rows = np.exp(-2.0 * (np.pi * along * np.fft.fftfreq(shape[1])[None, :, None]) ** 2)
    columns = np.exp(-2.0 * (np.pi * across * np.fft.rfftfreq(shape[2])[None, None, :]) ** 2)
    response = (rows * columns).astype(np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * response, s=shape[1:])
    return np.asarray(smooth / smooth.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def _complex_noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex64]:
    """Circular Gaussian noise of mean square 1."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    return pairs.view(np.complex64)[..., 0]


def _two_way_db(loss: Field, scanner: Scanner) -> Field:
    """What tissue above each sample took, on the way there and back."""
    per_sample = 2.0 * scanner.frequency_mhz * scanner.mm_per_pixel / 10.0
    return np.cumsum(loss, axis=1, dtype=np.float32) * np.float32(per_sample)


def _lateral_response(scanner: Scanner) -> Field:
    """Transfer function across the beams at each depth, ``[1, S, S]``, that keeps the mean square of white noise."""
    sigma = scanner.lateral_fwhm_mm(scanner.depth) / (_FWHM * scanner.mm_per_pixel)
    response = np.exp(-2.0 * (np.pi * sigma * np.fft.fftfreq(scanner.pixels)[None, None, :]) ** 2)
    return np.asarray(response / np.sqrt(np.mean(response**2, axis=2, keepdims=True)), dtype=np.float32)


def _axial_blur(scanner: Scanner) -> NDArray[np.complex64]:
    """The pulse as a matrix over depth, ``[S, S]``, that keeps the mean square of white noise."""
    sigma = scanner.axial_fwhm_mm / (_FWHM * scanner.mm_per_pixel)
    depth = np.arange(scanner.pixels)
    pulse = np.exp(-0.5 * ((depth[:, None] - depth[None, :]) / sigma) ** 2)
    return np.asarray(pulse / np.sqrt(np.sum(pulse**2, axis=1, keepdims=True)), dtype=np.complex64)


def _display(received: Field, scanner: Scanner) -> Field:
    """Time-gain compensation, logarithm, and the machine's grey map."""
    gain = scanner.gain_db - _CEILING_DB + 2.0 * TISSUE_LOSS * scanner.frequency_mhz * scanner.depth / 10.0
    decibel = 20.0 * np.log10(np.maximum(received, np.float32(1e-12))) + gain
    shown = _smoothed(_smoothed(decibel, scanner.smoothing, axis=1), scanner.smoothing, axis=2)
    return np.asarray(np.clip(1.0 + shown / scanner.dynamic_range_db, 0.0, 1.0) ** scanner.gamma, dtype=np.float32)


def _smoothed(samples: Field, share: float, *, axis: Literal[1, 2]) -> Field:
    """Each sample mixed with its two neighbours along ``axis``."""
    padded = np.pad(samples, [(0, 0), (1, 1), (0, 0)] if axis == 1 else [(0, 0), (0, 0), (1, 1)], mode="edge")
    before, after = (padded[:, :-2], padded[:, 2:]) if axis == 1 else (padded[:, :, :-2], padded[:, :, 2:])
    return np.asarray((1.0 - share) * samples + 0.5 * share * (before + after), dtype=np.float32)
