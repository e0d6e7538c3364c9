"""Random-effects meta-analysis against metafor and statsmodels, and what it says of few sites."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from server.results.heterogeneity import heterogeneity, ranking, site_pairs
from server.results.meta_analysis import AUC_PRIOR, TauPrior, dersimonian_laird, holm, random_effects, ranks, reml, with_prior

# BCG vaccine trials (Colditz et al. 1994; dat.bcg of metafor): positive and negative of the vaccinated, then of the controls.
BCG = np.array(
    [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761),
        (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600),
        (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ],
    float,
)  # fmt: skip
# Teacher expectancy (Raudenbush 1985; dat.raudenbush1985 of metadat): standardised mean difference and its variance.
EXPECTANCY = np.array(
    [
        (0.03, 0.0156), (0.12, 0.0216), (-0.14, 0.0279), (1.18, 0.1391), (0.26, 0.1362), (-0.06, 0.0106), (-0.02, 0.0106),
        (-0.32, 0.0484), (0.27, 0.0269), (0.80, 0.0630), (0.54, 0.0912), (0.18, 0.0497), (-0.02, 0.0835), (0.23, 0.0841),
        (-0.18, 0.0253), (-0.06, 0.0279), (0.30, 0.0193), (0.07, 0.0088), (-0.07, 0.0303),
    ]
)  # fmt: skip


def log_risk_ratios() -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d = BCG.T
    return np.log(a / (a + b)) - np.log(c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


class TestBcg:
    """metafor: tests/testthat/test_misc_confint.r."""

    def test_dersimonian_laird(self):
        found = random_effects(*log_risk_ratios(), between=dersimonian_laird, hartung_knapp=False)
        assert np.exp([found.mean, found.low, found.high]) == pytest.approx([0.4896, 0.3449, 0.6950], abs=5e-5)
        assert found.tau2 == pytest.approx(0.3088, abs=5e-5)
        assert 100 * found.i2 == pytest.approx(92.1173, abs=5e-5)

    def test_reml(self):
        found = random_effects(*log_risk_ratios(), hartung_knapp=False)
        assert (found.mean, found.standard_error, found.tau2) == pytest.approx((-0.7145, 0.1798, 0.3132), abs=5e-5)
        assert 100 * found.i2 == pytest.approx(92.22, abs=5e-3)
        assert (found.prediction_low, found.prediction_high) == pytest.approx((-1.867, 0.438), abs=5e-4)

    def test_hartung_knapp(self):
        found = random_effects(*log_risk_ratios(), never_narrower=False)
        assert (found.low, found.high) == pytest.approx((-1.108, -0.321), abs=5e-4)

    def test_is_that_of_statsmodels(self):
        estimates, variances = log_risk_ratios()
        theirs = combine_effects(estimates, variances, method_re="dl", use_t=False)
        ours = random_effects(estimates, variances, between=dersimonian_laird, hartung_knapp=False)
        assert ours.mean == pytest.approx(theirs.mean_effect_re)
        assert ours.standard_error == pytest.approx(theirs.sd_eff_w_re)
        knapp = random_effects(estimates, variances, between=dersimonian_laird, never_narrower=False)
        assert knapp.standard_error == pytest.approx(theirs.sd_eff_w_re_hksj)


class TestExpectancy:
    """metafor: tests/testthat/test_analysis_example_raudenbush2009.r."""

    def test_reml(self):
        found = random_effects(*EXPECTANCY.T, hartung_knapp=False)
        assert (found.tau2, found.mean) == pytest.approx((0.0188, 0.0837), abs=1e-4)
        assert (found.low, found.high) == pytest.approx((-0.0175, 0.1849), abs=1e-4)
        assert (found.prediction_low, found.prediction_high) == pytest.approx((-0.2036, 0.3711), abs=1e-3)

    def test_hartung_knapp(self):
        found = random_effects(*EXPECTANCY.T, never_narrower=False)
        assert found.standard_error == pytest.approx(0.0616, abs=1e-4)
        assert (found.low, found.high) == pytest.approx((-0.0457, 0.2131), abs=1e-4)
        dl = random_effects(*EXPECTANCY.T, between=dersimonian_laird, never_narrower=False)
        assert dl.tau2 == pytest.approx(0.0259, abs=1e-4)
        assert (dl.low, dl.high) == pytest.approx((-0.0442, 0.2229), abs=1e-4)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(0.01, 1.0)), min_size=2, max_size=7),
)
@example([(0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 0.0625)])  # on which scoring steps go to and fro
@settings(deadline=None)
def test_reml_maximises_the_restricted_likelihood(sites):
    estimates, variances = (np.array(column) for column in zip(*sites, strict=True))
    found = reml(estimates, variances)

    def likelihood(tau2: float) -> float:
        weights = 1.0 / (variances + tau2)
        mean = np.average(estimates, weights=weights)
        return -0.5 * (np.sum(np.log(variances + tau2)) + np.log(weights.sum()) + np.sum(weights * (estimates - mean) ** 2))

    near = [found * 0.9, found * 1.1, found + 0.01, max(found - 0.01, 0.0)]
    assert all(likelihood(found) >= likelihood(tau2) - 1e-7 for tau2 in near)


def test_sites_that_happen_to_agree_claim_no_more_than_their_own_precision():
    estimates, variances = np.array([1.0, 1.001, 0.999]), np.full(3, 0.04)
    plain = random_effects(estimates, variances, never_narrower=False)
    held = random_effects(estimates, variances)
    assert held.standard_error == pytest.approx(np.sqrt(0.04 / 3))
    assert held.high - held.low > 10 * (plain.high - plain.low)


def test_two_sites_foresee_nothing():
    found = random_effects(np.array([0.0, 1.0]), np.array([0.1, 0.1]))
    assert found.prediction_low is found.prediction_high is None
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 1) * found.standard_error)


class TestPrior:
    def test_without_doubt_about_tau_it_is_the_known_answer(self):
        estimates, variances = np.array([0.8, 0.75, 0.7]), np.array([0.04, 0.05, 0.03]) ** 2
        found = with_prior(estimates, variances, TauPrior(0.05, 1e-4, "known"))
        weights = 1 / (variances + 0.05**2)
        mean, error = np.average(estimates, weights=weights), np.sqrt(1 / weights.sum())
        z = stats.norm.ppf(0.975)
        assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - z * error, mean + z * error), abs=1e-3)
        spread = z * np.sqrt(error**2 + 0.05**2)
        assert (found.prediction_low, found.prediction_high) == pytest.approx((mean - spread, mean + spread), abs=1e-3)

    def test_it_makes_three_sites_useful_and_stays_honest(self):
        estimates, variances = np.array([0.80, 0.75, 0.70]), np.array([0.04, 0.05, 0.03]) ** 2
        plain, found = random_effects(estimates, variances), with_prior(estimates, variances, AUC_PRIOR)
        width = found.prediction_high - found.prediction_low
        assert width < 0.6 * (plain.prediction_high - plain.prediction_low)
        assert width > 2 * 0.1  # van Leeuwen et al.: at least +-0.1, however many validations
        assert 0.02 < found.tau_low < found.tau < found.tau_high < 0.10

    def test_covers_a_new_site_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        inside = 0
        for _ in range(80):
            tau = max(rng.normal(AUC_PRIOR.mean, AUC_PRIOR.standard_deviation), 0.0)
            variances = rng.uniform(0.02, 0.08, 4) ** 2
            truth = 0.75 + tau * rng.normal(size=5)
            found = with_prior(truth[:4] + np.sqrt(variances) * rng.normal(size=4), variances, AUC_PRIOR)
            inside += found.prediction_low <= truth[4] <= found.prediction_high
        assert 72 <= inside <= 80


class TestRanks:
    def test_of_equal_sites_are_even(self):
        for rank in ranks(np.zeros(4), np.ones(4)):
            assert rank.expected == pytest.approx(2.5, abs=0.05)
            assert (rank.low, rank.high) == (1, 4)
            assert rank.probability_best == pytest.approx(0.25, abs=0.02)

    def test_of_two_sites_is_the_normal_probability(self):
        first, second = ranks(np.array([0.3, 0.0]), np.array([0.04, 0.05]))
        better = stats.norm.cdf(0.3 / 0.3)
        assert first.probability_best == pytest.approx(better, abs=0.01)
        assert first.expected == pytest.approx(2 - better, abs=0.01)
        assert first.probability_best + second.probability_best == pytest.approx(1.0)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def site(auc=None, *, why="no events", **others):
    numbers = {"auc": auc, "oe_ratio": None, "calibration_slope": None, "calibration_intercept": None, **others}
    missing = [{"metric": name, "why": why} for name, value in numbers.items() if value is None]
    return {"metrics": numbers, "not_estimable": missing}


def number(value, low, high):
    return {"value": value, "low": low, "high": high, "method": "test"}


class TestOfDocument:
    def test_pools_on_the_scale_on_which_estimates_are_normal(self):
        sites = {
            "a": site(number(0.80, 0.70, 0.875), oe_ratio=number(0.5, 0.25, 1.0)),
            "b": site(number(0.80, 0.70, 0.875), oe_ratio=number(2.0, 1.0, 4.0)),
            "c": site(),
        }
        found = heterogeneity(sites)
        assert found["auc"]["mean"] == pytest.approx(0.80)
        assert found["auc"]["tau2"] == 0.0
        assert found["auc"]["excluded"] == [{"site": "c", "why": "no events"}]
        assert found["oe_ratio"]["mean"] == pytest.approx(1.0)
        assert found["oe_ratio"]["low"] * found["oe_ratio"]["high"] == pytest.approx(1.0)
        assert found["calibration_slope"] is None
        assert "hardly known" in found["auc"]["caution"]
        assert sum(share["weight"] for share in found["auc"]["sites"].values()) == pytest.approx(1.0)

    def test_an_auc_of_one_has_no_logit_and_is_named(self):
        sites = {"a": site(number(1.0, 0.7, 1.0)), "b": site(number(0.8, 0.7, 0.9)), "c": site(number(0.7, 0.5, 0.85))}
        found = heterogeneity(sites)["auc"]
        assert found["k"] == 2
        assert found["excluded"] == [{"site": "a", "why": "the value or an end of its interval has no logit"}]
        assert [row["site"] for row in ranking(sites)] == ["b", "c"]

    def test_pairs_of_sites(self):
        sites = {"a": site(number(0.9, 0.85, 0.94)), "b": site(number(0.7, 0.6, 0.78)), "c": site(number(0.71, 0.6, 0.8))}
        rows = {(row["first"], row["second"]): row for row in site_pairs(sites)}
        assert set(rows) == {("a", "b"), ("a", "c"), ("b", "c")}
        clear, none = rows["a", "b"], rows["b", "c"]
        assert clear["difference"] == pytest.approx(0.2)
        assert clear["low"] == pytest.approx(0.2 - np.hypot(0.05, 0.08))
        assert clear["high"] == pytest.approx(0.2 + np.hypot(0.04, 0.1))
        assert clear["p_value"] < clear["p_holm"] < 0.01
        assert none["p_holm"] > 0.5
        assert none["low"] < 0.0 < none["high"]

    def test_of_nothing_is_nothing(self):
        assert set(heterogeneity({}).values()) == {None}
        assert site_pairs({}) == ranking({}) == []
        assert ranking({"a": site(number(0.8, 0.7, 0.9))}) == []
