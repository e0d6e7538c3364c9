"""Summaries are commutative monoids, and equal what they sum up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared_model.errors import MessageError
from shared_model.summaries import (
    CategoryCounts,
    Moments,
    Normalization,
    PartCounts,
    ScoreHistogram,
    ScoreSums,
    ThresholdCounts,
)

WHOLE = st.integers(-(2**20), 2**20).map(float)  # sums of these are exact, so that the laws hold to the last bit
COUNT = st.integers(0, 10_000)
COUNTS = st.tuples(COUNT, COUNT, COUNT)


@st.composite
def histograms(draw: st.DrawFn, *, bins: int) -> ScoreHistogram:
    """Of scores with ties and edges among them, fine or merged."""
    n = draw(st.integers(0, 25))
    score = st.one_of(st.sampled_from([0.0, 1 / bins, 0.5, 1.0]), st.floats(0.0, 1.0))
    scores, labels = draw(arrays(float, n, elements=score)), draw(arrays(float, n, elements=st.sampled_from([0.0, 1.0])))
    histogram = ScoreHistogram.of(scores, labels, bins=bins)
    minimum = draw(st.integers(0, 6))
    return histogram.coarsened(minimum) if minimum else histogram


KINDS = {
    "moments": (st.builds(Moments, COUNT, WHOLE, WHOLE), Moments()),
    "categories": (st.builds(CategoryCounts, COUNTS), CategoryCounts((0, 0, 0))),
    "histogram": (histograms(bins=6), ScoreHistogram.zero(6)),
    "thresholds": (st.builds(ThresholdCounts, st.just(0.5), COUNT, COUNT, COUNT, COUNT), ThresholdCounts(0.5)),
    "sums": (st.builds(ScoreSums, COUNT, COUNT, WHOLE, WHOLE, WHOLE), ScoreSums()),
    "parts": (st.builds(PartCounts, COUNT, COUNT), PartCounts(0, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_is_a_commutative_monoid(kind, data):
    records, zero = KINDS[kind]
    a, b, c = (data.draw(records) for _ in range(3))
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + zero == a == zero + a


@given(arrays(float, st.integers(0, 30), elements=st.floats(-1e3, 1e3)), st.integers(0, 30))
def test_moments_are_those_of_numpy(values, cut):
    moments = Moments.of(values[:cut]) + Moments.of(values[cut:])
    assert moments.count == values.size
    assert moments.mean == pytest.approx(values.mean() if values.size else 0.0, abs=1e-6)
    expected = values.std(ddof=1) if values.size > 1 else 0.0
    assert moments.standard_deviation == pytest.approx(expected, abs=0.02)


def test_histogram_counts_everybody_once_and_keeps_one_in_the_last_bin():
    scores = np.array([0.0, 0.0999, 0.1, 0.55, 1.0, 1.0])
    labels = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    histogram = ScoreHistogram.of(scores, labels, bins=10)
    negatives, positives = histogram.by_bin
    assert negatives.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert positives.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert histogram.cells == [(0, 1, 1, 1), (1, 2, 1, 0), (5, 6, 0, 1), (9, 10, 1, 1)]
    assert ScoreHistogram.of_bins(negatives, positives) == histogram


def test_nobody_gives_the_zero():
    nobody = np.zeros(0)
    assert ScoreHistogram.of(nobody, nobody, bins=7) == ScoreHistogram.zero(7)
    assert ScoreSums.of(nobody, nobody) == ScoreSums()
    assert ThresholdCounts.of(nobody, nobody, threshold=0.5) == ThresholdCounts(0.5)
    assert Moments.of(nobody) == Moments()


def test_certain_and_wrong_costs_a_finite_log_loss():
    sums = ScoreSums.of(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert sums.log_loss == pytest.approx(-2 * np.log(1e-7), rel=1e-6)


def test_what_does_not_fit_does_not_add():
    with pytest.raises(MessageError, match="3 and 4 bins"):
        ScoreHistogram.zero(3) + ScoreHistogram.zero(4)
    with pytest.raises(MessageError, match=r"0\.5 and 0\.6"):
        ThresholdCounts(0.5) + ThresholdCounts(0.6)
    with pytest.raises(MessageError, match="2 and 3 categories"):
        CategoryCounts((1, 2)) + CategoryCounts((1, 2, 3))


def test_normalization_of_what_nobody_measured_changes_nothing():
    normalization = Normalization.of([Moments(), Moments.of(np.full(4, 2.5))], [CategoryCounts((0, 0)), CategoryCounts((1, 3))])
    assert normalization.mean == (0.0, 2.5)
    assert normalization.scale == (1.0, 1.0)
    assert normalization.frequency == ((0.5, 0.5), (0.25, 0.75))
