"""What gives the outcome away, and what only seems to."""

import numpy as np
import pytest

from client.cohort.findings import VariableFinding
from client.cohort.units import likelier_unit
from client.preflight.leakage import border_check, joint_auc, single_auc, variable_check
from shared_model.variables import Variable

PATIENTS = 200


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat([0, 1], [140, 60]))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(1).normal(size=PATIENTS)


def test_codes_that_name_the_outcome_are_found(labels):
    codes = [f"{'sick' if label else 'well'}-{place % 3}" for place, label in enumerate(labels)]
    assert single_auc(codes, labels) == 1.0


def test_a_code_for_each_patient_tells_nothing(labels):
    # In-sample these would predict perfectly.
    assert single_auc([f"patient {place}" for place in range(PATIENTS)], labels) == pytest.approx(0.5, abs=0.08)


def test_numbers_count_whichever_way_they_point_and_in_any_shape(labels, noise):
    assert single_auc(-labels.astype(float), labels) == 1.0
    away = np.where(labels == 1, np.sign(noise) * 3.0, noise * 0.3)  # positive at both ends
    assert single_auc(away, labels) > 0.95
    assert single_auc(noise, labels) < 0.62


def test_missing_values_can_be_what_tells(labels, noise):
    assert single_auc(np.where(labels == 1, np.nan, noise), labels) > 0.95


def test_between_the_thresholds_is_a_warning(labels):
    mostly = [str(1 - label if k % 20 == 0 else label) for k, label in enumerate(labels)]  # one in twenty is wrong
    assert 0.90 < single_auc(mostly, labels) <= 0.95
    assert variable_check({"mostly": mostly}, labels).status == "warn"


def test_the_variable_that_tells_is_named(labels, noise):
    certain = variable_check({"age": noise, "adenopathy": [str(label) for label in labels]}, labels)
    assert certain.status == "fail"
    assert any("'adenopathy' alone" in problem.what for problem in certain.problems)
    assert any("without 'adenopathy'" in problem.what for problem in certain.problems)
    assert all("'age' alone" not in problem.what for problem in certain.problems)


def test_variables_that_tell_only_together(labels):
    rng = np.random.default_rng(2)
    one = rng.normal(size=PATIENTS) * 3.0
    other = labels * 1.5 - one + rng.normal(size=PATIENTS) * 0.2
    assert max(single_auc(one, labels), single_auc(other, labels)) < 0.9
    assert joint_auc({"one": one, "other": other}, labels) > 0.95
    check = variable_check({"one": one, "other": other}, labels)
    assert check.status == "fail"
    assert "all variables together" in check.problems[0].what


@pytest.mark.parametrize("events", [0, 1, 9])
def test_too_few_events_are_not_judged(events, noise):
    labels = np.r_[np.ones(events, dtype=np.int64), np.zeros(PATIENTS - events, dtype=np.int64)]
    assert variable_check({"x": labels.astype(float)}, labels).status == "skip"
    assert border_check({"top": noise[:, None]}, labels).status == "skip"


def test_constant_and_empty_variables_are_passed_over(labels):
    columns = {"same": ["a"] * PATIENTS, "none": np.full(PATIENTS, np.nan)}
    assert variable_check(columns, labels).status == "skip"


def test_a_side_of_the_pictures_that_tells(labels, noise):
    told = border_check({"top": noise[:, None], "bottom": labels[:, None] + 0.1 * noise[:, None]}, labels)
    assert told.status == "fail"
    assert [problem.what.split()[1] for problem in told.problems] == ["bottom"]
    assert border_check({"top": noise[:, None]}, labels).status == "pass"


SIZE = Variable(kind="numeric", unit="mm", range=(0.1, 150.0), log=True)


@pytest.mark.parametrize(
    ("median", "unit", "expected"),
    [(0.7, "mm", "cm"), (7.0, "mm", None), (0.7, "cm", None), (7.0, "cm", "mm"), (None, "mm", None), (0.7, None, None)],
)
def test_a_median_in_another_unit_is_told(median, unit, expected):
    factor = 10.0 if unit == "cm" else 1.0
    found = VariableFinding("size", unit, factor, median=None if median is None else median * factor)
    assert likelier_unit("tumour_size", found, SIZE) == expected


def test_a_narrow_range_is_left_to_the_check_of_ranges():
    age = Variable(kind="numeric", unit="years", range=(10.0, 100.0))
    assert likelier_unit("age", VariableFinding("age", "years", median=11.0), age) is None
