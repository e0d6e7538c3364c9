import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import Krum, Median, TrimmedMean, WeightedMean, aggregator
from shared_model.errors import StudyError
from shared_model.protocol import AggregationRule

finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(finite, st.integers(1, 100_000)), min_size=1, max_size=8))
def test_weighted_mean_is_the_exact_mean_rounded_once(pairs: list[tuple[float, int]]) -> None:
    mean = WeightedMean(1)
    for value, weight in pairs:
        mean.add("site", np.array([value], np.float32), weight=weight)
    exact = sum(Fraction(float(np.float32(v))) * w for v, w in pairs) / sum(w for _, w in pairs)
    assert math.isclose(float(mean.result()[0]), float(exact), rel_tol=2**-23, abs_tol=1e-30)


def test_weighted_mean_does_not_depend_on_the_order_of_replies() -> None:
    generator = np.random.default_rng(0)
    updates = [(generator.normal(size=2000) * 10.0**k).astype(np.float32) for k in range(-3, 2)]
    weights = [3, 1001, 17, 52, 9]
    results = set()
    for order in permutations(range(5)):
        mean = WeightedMean(2000)
        for k in order:
            mean.add(str(k), updates[k], weight=weights[k])
        results.add(mean.result().tobytes())
    assert len(results) == 1
    assert results.pop() == np.average(np.float64(updates), axis=0, weights=weights).astype(np.float32).tobytes()


def filled(rule: Median | TrimmedMean | Krum, updates: np.ndarray) -> np.ndarray:
    for number, update in enumerate(updates):
        rule.add(f"site-{number}", update.astype(np.float32), weight=1)
    return rule.result()


def test_median_and_trimmed_mean_against_scipy() -> None:
    from scipy.stats import trim_mean

    updates = np.random.default_rng(1).normal(size=(7, 50)).astype(np.float32)
    np.testing.assert_allclose(filled(Median(1), updates), np.median(updates, axis=0), rtol=1e-6)
    np.testing.assert_allclose(filled(TrimmedMean(2), updates), trim_mean(updates, 2 / 7, axis=0), rtol=1e-5)


def test_krum_chooses_an_honest_update() -> None:
    generator = np.random.default_rng(2)
    honest = 1.0 + 0.01 * generator.normal(size=(5, 20))
    hostile = np.full((1, 20), -100.0)
    chosen = filled(Krum(1), np.concatenate([hostile, honest]))
    assert any(np.array_equal(chosen, update.astype(np.float32)) for update in honest)


@pytest.mark.parametrize(("kind", "needed"), [("trimmed_mean", 3), ("krum", 5)])
def test_too_few_replies_for_a_robust_rule_are_told(kind: str, needed: int) -> None:
    rule = aggregator(AggregationRule(kind=kind, byzantine=1), size=2)
    for number in range(needed - 1):
        rule.add(str(number), np.ones(2, np.float32), weight=1)
    with pytest.raises(StudyError, match=f"needs {needed} replies"):
        rule.result()
