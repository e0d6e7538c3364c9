"""Synthetic ultrasound against physics and against the table that it is drawn from."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from client.synthetic import SCANNERS
from client.synthetic.images import Pictures, View, draw_pictures
from client.synthetic.patients import CaseMix, Patients, draw_patients
from client.synthetic.physics import TISSUE_LOSS, Scanner, acquire, envelope

SMALL = Scanner(pixels=96, field_mm=40.0)
BMODE: tuple[View, ...] = ("bmode_transverse", "bmode_longitudinal")
EVEN = np.ones((4, 224, 224), dtype=np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def patients_with(count: int = 60, *, size: float = 8.0, spread: float = 0.05, **columns: object) -> Patients:
    """Patients whose lesions are about ``size`` mm, with the columns given."""
    patients = draw_patients(count, mix=CaseMix(size_median_mm=size, size_log_sd=spread), seed=11)
    for name, value in columns.items():
        patients.variables[name] = value
    return patients


def grey_in(pictures: Pictures, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.array([picture[mask].mean() for picture, mask in zip(pictures.pixels, masks, strict=True)])


def test_speckle_of_even_tissue_is_rayleigh_distributed() -> None:
    """Mean over standard deviation of a Rayleigh variable is sqrt(pi / (4 - pi)) = 1.913; its mean square is the echo's."""
    levels = envelope(3.0 * EVEN, scanner=Scanner(), rng=rng())
    assert levels.mean() / levels.std() == pytest.approx(1.913, rel=0.03)
    assert np.mean(levels**2) == pytest.approx(9.0, rel=0.05)


def correlation_mm(levels: NDArray[np.floating], *, axis: int, scanner: Scanner) -> float:
    """Shift at which the autocorrelation of speckle falls to a half, in mm."""
    intensity = levels.astype(np.float64) ** 2
    intensity -= intensity.mean()
    length = intensity.shape[axis]
    power = np.abs(np.fft.fft(intensity, axis=axis)) ** 2
    lags = np.fft.ifft(power, axis=axis).real.mean(axis=tuple({0, 1, 2} - {axis}))[: length // 2]
    lags /= lags[0]
    below = int(np.argmax(lags < 0.5))
    return float(below - (0.5 - lags[below]) / (lags[below - 1] - lags[below])) * scanner.mm_per_pixel


def test_beams_are_narrowest_at_the_focus_and_widen_away_from_it() -> None:
    scanner = Scanner(focus_mm=20.0)
    levels = envelope(np.ones((8, 224, 224), np.float32), scanner=scanner, rng=rng())
    at = {mm: levels[:, (rows := slice(int(mm * 5.6) - 11, int(mm * 5.6) + 11))] for mm in (4.0, 20.0, 37.0)}
    assert rows.stop <= 224
    near, focus, far = (correlation_mm(part, axis=2, scanner=scanner) for part in at.values())
    assert focus < 0.75 * near
    assert focus < 0.75 * far
    # Autocorrelation of the intensity of a Gaussian beam falls to a half at half its full width at half maximum.
    widths = [float(scanner.lateral_fwhm_mm(np.float32(mm))) for mm in at]
    np.testing.assert_allclose([near, focus, far], np.array(widths) / 2.0, rtol=0.15)


def test_a_higher_frequency_resolves_finer() -> None:
    low, high = Scanner(frequency_mhz=3.0), Scanner(frequency_mhz=9.0)
    coarse, fine = (envelope(EVEN, scanner=scanner, rng=rng()) for scanner in (low, high))
    for axis in (1, 2):
        assert correlation_mm(coarse, axis=axis, scanner=low) > 1.3 * correlation_mm(fine, axis=axis, scanner=high)


def shown(echo: float = 0.0, loss: float = TISSUE_LOSS, scanner: Scanner = Scanner()) -> NDArray[np.floating]:  # noqa: B008
    return acquire(np.full_like(EVEN, echo), np.full_like(EVEN, loss), scanner=scanner, rng=rng())


def test_gain_for_depth_makes_up_for_what_tissue_takes() -> None:
    rows = shown().mean(axis=(0, 2))
    assert rows[160:190].mean() == pytest.approx(rows[20:50].mean(), abs=0.02)


def test_lossy_tissue_throws_a_shadow_and_fluid_brightens_what_is_behind() -> None:
    rows = {loss: shown(loss=loss).mean(axis=(0, 2))[150:180].mean() for loss in (0.2, TISSUE_LOSS, 0.9)}
    assert rows[0.9] < rows[TISSUE_LOSS] - 0.05 < rows[0.2] - 0.1


def test_dynamic_range_is_how_many_decibels_lie_between_black_and_white() -> None:
    scanner = Scanner(dynamic_range_db=60.0, noise_db=-150.0)
    step = shown(echo=0.0, scanner=scanner).mean() - shown(echo=-12.0, scanner=scanner).mean()
    assert step == pytest.approx(12.0 / 60.0, abs=0.005)


def test_deep_echoes_of_a_high_frequency_drown_in_noise() -> None:
    noisy = Scanner(frequency_mhz=15.0, noise_db=-60.0)
    silent = shown(echo=-200.0, scanner=noisy).mean(axis=(0, 2))
    assert silent[10] == 0.0
    assert silent[-10] > 0.3


@pytest.mark.parametrize("name", SCANNERS)
def test_scanners_show_a_rectangle_or_a_sector(name: str) -> None:
    scanner = SCANNERS[name]
    assert scanner.in_view.all() == (scanner.radius_mm is None)
    pictures = draw_pictures(patients_with(3), "bmode_transverse", scanner=scanner, seed=1)
    assert not pictures.pixels[:, ~scanner.in_view].any()
    assert scanner.in_view[: scanner.pixels // 2, scanner.pixels // 2].all()


@pytest.mark.parametrize("size", [5.0, 10.0, 20.0])
def test_the_box_is_as_wide_as_the_lesion_and_holds_its_mask(size: float) -> None:
    scanner = Scanner(pixels=128, field_mm=40.0)
    patients = patients_with(size=size, spread=0.01, taller_than_wide=False)
    pictures = draw_pictures(patients, "bmode_transverse", scanner=scanner, seed=1)
    boxes = pictures.boxes
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    np.testing.assert_allclose((boxes[:, 2] - boxes[:, 0]) * 40.0 / 128.0, size, rtol=0.05, atol=0.7)
    for mask, (x0, y0, x1, y1) in zip(pictures.lesion, boxes, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert max(abs(rows[0] - y0), abs(rows[-1] + 1 - y1), abs(columns[0] - x0), abs(columns[-1] + 1 - x1)) <= 1


@pytest.mark.parametrize("taller", [False, True])
def test_taller_than_wide_is_drawn_so(taller: bool) -> None:
    boxes = draw_pictures(patients_with(taller_than_wide=taller), "bmode_transverse", scanner=Scanner(), seed=1).boxes
    assert ((boxes[:, 3] - boxes[:, 1] > boxes[:, 2] - boxes[:, 0]) == taller).all()


@pytest.mark.parametrize("view", BMODE)
@pytest.mark.parametrize("name", ["vesta_12", "delphin_8"])
def test_the_lesion_is_as_far_from_the_capsule_as_the_table_says(view: View, name: str) -> None:
    scanner = SCANNERS[name]
    patients = patients_with(40, size=6.5, spread=0.5)
    drawable = ((patients.variables["capsule_distance"] < 5.0) & (patients.variables["tumour_size"] < 15.0)).to_numpy()
    pictures = draw_pictures(patients, view, scanner=scanner, seed=1)
    wide = 60  # the gland may end outside the picture: its outline there is no capsule
    measured = np.array(
        [
            ndimage.distance_transform_edt(np.pad(gland, wide, mode="edge"))[wide:-wide, wide:-wide][lesion].min()
            for gland, lesion in zip(pictures.gland, pictures.lesion, strict=True)
        ]
    )
    true = patients.variables["capsule_distance"].to_numpy() / scanner.mm_per_pixel
    # The transform counts from the middle of a pixel to that of the nearest one outside: half a pixel more on either side.
    assert np.abs(measured - 0.5 - true)[drawable].max() < 1.5
    assert drawable.sum() > 25


def test_the_pole_is_where_the_lobe_ends() -> None:
    """Head to the left: gland is to the right of an upper lesion."""
    for pole, sign in (("upper", 1.0), ("lower", -1.0)):
        pictures = draw_pictures(patients_with(20, pole=pole), "bmode_longitudinal", scanner=SMALL, seed=1)
        columns = np.arange(96)
        gland = [np.average(columns, weights=mask.sum(axis=0)) for mask in pictures.gland]
        lesion = [np.average(columns, weights=mask.sum(axis=0)) for mask in pictures.lesion]
        assert np.all(sign * (np.array(gland) - np.array(lesion)) > 0.0)


def test_echogenicity_is_the_grey_of_the_lesion() -> None:
    levels = []
    for echogenicity in ("markedly_hypoechoic", "hypoechoic", "isoechoic"):
        patients = patients_with(16, echogenicity=echogenicity, calcification="none", margin="ill_defined", hashimoto=False)
        pictures = draw_pictures(patients, "bmode_longitudinal", scanner=Scanner(), seed=1)
        round_it = pictures.gland & ~pictures.lesion
        levels.append(grey_in(pictures, pictures.lesion) - grey_in(pictures, round_it))
    assert np.mean(levels[0] < -15.0) > 0.95
    assert levels[0].mean() < levels[1].mean() - 10.0 < levels[2].mean() - 20.0
    assert abs(levels[2].mean()) < 12.0


def test_a_coarse_calcification_shadows_and_specks_shine() -> None:
    """In smooth lesions: of a patchy one, the patches shine too."""
    kinds = {kind: patients_with(16, calcification=kind, size=10.0) for kind in ("none", "micro", "macro")}
    for patients in kinds.values():
        patients.texture[:] = -1.0
    none, micro, macro = (draw_pictures(p, "bmode_longitudinal", scanner=Scanner(), seed=1) for p in kinds.values())
    below = np.zeros_like(none.lesion)
    for mask, (x0, _, x1, y1) in zip(below, none.boxes, strict=True):
        mask[y1 + 2 : y1 + 20, (x0 + x1) // 2 - 2 : (x0 + x1) // 2 + 2] = True
    assert np.mean(grey_in(macro, below) < 0.6 * grey_in(none, below)) > 0.9
    brightest = [np.median([p[m].max() for p, m in zip(q.pixels, q.lesion, strict=True)]) for q in (none, micro)]
    assert brightest[1] > brightest[0] + 20.0


def test_extension_opens_the_capsule() -> None:
    """The line between gland and muscle next to a lesion at the capsule is dark where the tumour has broken through."""
    rims = []
    for ete in ("none", "gross"):
        patients = patients_with(16, ete=ete, capsule_distance=0.2, pole="middle", calcification="none")
        pictures = draw_pictures(patients, "bmode_longitudinal", scanner=Scanner(), seed=1)
        near = np.stack([ndimage.binary_dilation(mask, iterations=4) for mask in pictures.lesion])
        edge = np.stack([ndimage.binary_dilation(mask, iterations=2) & ~mask for mask in pictures.gland])
        rims.append(grey_in(pictures, near & edge))
    assert np.mean(rims[1] < rims[0]) > 0.9
    assert np.mean(rims[1] - rims[0]) < -20.0


def unevenness(pictures: Pictures) -> NDArray[np.float64]:
    """Logarithm of the spread of grey levels inside each lesion once speckle is averaged out; quartiles, lest specks count."""
    spreads = []
    for picture, mask in zip(pictures.pixels, pictures.lesion, strict=True):
        inside = ndimage.binary_erosion(mask, iterations=1)
        low, high = np.quantile(ndimage.gaussian_filter(picture.astype(np.float64), 1.2)[inside], [0.1, 0.9])
        spreads.append(np.log(high - low))
    return np.array(spreads)


@pytest.mark.parametrize("name", SCANNERS)
def test_pictures_show_the_texture(name: str) -> None:
    patients = patients_with(48, size=8.0, spread=0.3, calcification="none")
    pictures = draw_pictures(patients, "bmode_longitudinal", scanner=SCANNERS[name], seed=9)
    assert np.corrcoef(unevenness(pictures), patients.texture)[0, 1] > 0.8


def test_the_table_does_not_show_what_pictures_show() -> None:
    patients = draw_patients(2000, mix=CaseMix(), seed=9)
    v = patients.variables
    numbers = np.stack(
        [v["tumour_size"], v["age"], v["capsule_distance"], v["ete"] != "none", v["margin"] == "irregular"], axis=1
    )
    for latent in (patients.texture, patients.vascularity):
        scores = cross_val_predict(LogisticRegression(max_iter=1000), numbers, latent > 0, method="decision_function")
        assert roc_auc_score(latent > 0, scores) < 0.55


def coloured(pictures: Pictures) -> NDArray[np.bool_]:
    return np.ptp(pictures.pixels.astype(int), axis=3) > 60


def test_doppler_shows_the_vascularity_of_the_lesion() -> None:
    patients = patients_with(60, size=8.0, spread=0.3)
    pictures = draw_pictures(patients, "doppler", scanner=Scanner(), seed=1)
    shares = [colour[mask].mean() for colour, mask in zip(coloured(pictures), pictures.lesion, strict=True)]
    assert np.corrcoef(shares, patients.vascularity)[0, 1] > 0.8
    assert abs(np.corrcoef(shares, patients.texture)[0, 1]) < 0.35


def test_only_doppler_is_coloured_and_shows_the_transverse_plane() -> None:
    patients = draw_patients(20, mix=CaseMix(), seed=12)
    bmode, doppler = (draw_pictures(patients, view, scanner=SMALL, seed=1) for view in ("bmode_transverse", "doppler"))
    assert bmode.pixels.shape == (20, 96, 96)
    assert doppler.pixels.shape == (20, 96, 96, 3)
    assert coloured(doppler).any(axis=(1, 2)).mean() > 0.9
    np.testing.assert_array_equal(bmode.boxes, doppler.boxes)
    np.testing.assert_array_equal(bmode.lesion, doppler.lesion)


@pytest.mark.parametrize("view", [*BMODE, "doppler"])
def test_pictures_follow_from_the_seed(view: View) -> None:
    patients = draw_patients(18, mix=CaseMix(), seed=12)
    one, same, other = (draw_pictures(patients, view, scanner=SMALL, seed=seed).pixels for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(axis=tuple(range(1, one.ndim))).all()


def test_any_patient_can_be_drawn() -> None:
    """Also one whose lesion is larger than the picture, or smaller than a pixel."""
    patients = patients_with(6, pole=["upper", "middle", "lower", "isthmus", "isthmus", "upper"])
    patients.variables["tumour_size"] = [0.1, 90.0, 45.0, 0.4, 60.0, 8.0]
    patients.variables["capsule_distance"] = [0.0, 20.0, 0.0, 15.0, 0.0, 30.0]
    for view in (*BMODE, "doppler"):
        pictures = draw_pictures(patients, view, scanner=SMALL, seed=1)
        assert (pictures.boxes[:, :2] < pictures.boxes[:, 2:]).all()
        assert pictures.pixels.reshape(6, -1).std(axis=1).min() > 5.0
