"""Case mix from summaries against the same differences from the patients themselves; cuts of risk; sample size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.results.case_mix import categorical_difference, expected_width, numeric_difference
from server.results.strata import cuts_from
from shared_model import metrics
from shared_model.summaries import CategoryCounts, Moments, ScoreHistogram


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 40))
def test_a_numeric_difference_is_that_of_the_patients(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(50, 10, n), rng.normal(45, 15, m)
    expected = (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert numeric_difference(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


@given(st.tuples(*[st.integers(1, 50)] * 4))
def test_of_two_categories_it_is_the_difference_of_shares(counts: tuple[int, int, int, int]) -> None:
    a, b, c, d = counts
    p, q = a / (a + b), c / (c + d)
    expected = abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2)
    assert categorical_difference(CategoryCounts((a, b)), CategoryCounts((c, d))) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(1, 30), min_size=3, max_size=6), st.randoms())
def test_of_several_it_does_not_depend_on_their_order(counts: list[int], random) -> None:
    other = [count + 3 * place for place, count in enumerate(counts)]
    order = list(range(len(counts)))
    random.shuffle(order)
    first = categorical_difference(CategoryCounts(tuple(counts)), CategoryCounts(tuple(other)))
    again = categorical_difference(
        CategoryCounts(tuple(counts[k] for k in order)), CategoryCounts(tuple(other[k] for k in order))
    )
    assert first == pytest.approx(again, abs=1e-8)
    assert categorical_difference(CategoryCounts(tuple(counts)), CategoryCounts(tuple(counts))) == pytest.approx(0, abs=1e-8)


def test_what_cannot_be_compared_is_none() -> None:
    assert numeric_difference(Moments(), Moments.of(np.arange(5.0))) is None
    assert numeric_difference(Moments.of(np.ones(4)), Moments.of(np.ones(4))) is None
    assert categorical_difference(CategoryCounts((0, 0)), CategoryCounts((3, 4))) is None


def test_the_width_to_expect_is_that_of_simulated_markers() -> None:
    """Exponential markers of AUC 0.8, as the formula supposes: DeLong's interval is on average as wide as foretold."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1.0, 0.0], [40, 80])
    widths = []
    for _ in range(200):
        scores = rng.exponential(np.where(labels == 1, 4.0, 1.0))
        interval = metrics.auc_interval(scores, labels)
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert np.mean(widths) == pytest.approx(expected_width(40, 80), rel=0.08)


@given(st.integers(0, 300), st.integers(10, 80))
def test_cuts_keep_what_they_promise_on_the_patients_they_are_from(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(float)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + labels)))
    cuts = cuts_from(ScoreHistogram.of(scores, labels, bins=200))
    if not 0 < labels.sum() < n:
        assert cuts is None
        return
    assert cuts is not None
    low, high = cuts
    assert low <= high
    # One of the two cuts is the sensitive one, the other the specific one; of a very good model they change places.
    assert np.mean(scores[labels == 1] >= low) >= 0.95
    assert np.mean(scores[labels == 0] < high) >= 0.95
