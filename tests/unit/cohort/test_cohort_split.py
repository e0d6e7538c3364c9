import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort.split import split_by_share
from client.site_config import Split


def sizes(count: int, **shares: float) -> dict[str, int]:
    split = Split(**shares) if shares else Split()
    return dict(Counter(split_by_share([str(k) for k in range(count)], [1] * count, split).values()))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "test": 1, "tune": 1}),
        (4, {"train": 2, "test": 1, "tune": 1}),
        (5, {"train": 3, "test": 1, "tune": 1}),
        (100, {"train": 60, "test": 20, "tune": 20}),
    ],
)
def test_tiny_classes_train_first_then_test_then_tune(count, expected):
    assert sizes(count) == expected


def test_a_part_without_a_share_stays_empty():
    assert sizes(7, train=0.5, tune=0.0, test=0.5) == {"train": 4, "test": 3}
    assert sizes(3, train=0.0, tune=0.0, test=1.0) == {"test": 3}


def test_nobody_is_split_into_nothing():
    assert split_by_share([], [], Split()) == {}


@given(st.lists(st.integers(0, 1), max_size=60), st.randoms())
def test_the_split_is_of_patients_not_of_rows(labels: list[int], shuffler: random.Random):
    patients = [f"p{k}" for k in range(len(labels))]
    pairs = list(zip(patients, labels, strict=True))
    split = split_by_share(patients, labels, Split())
    shuffler.shuffle(pairs)
    assert split_by_share([p for p, _ in pairs], [y for _, y in pairs], Split()) == split
    assert set(split) == set(patients)
    for outcome in (0, 1):
        counts = Counter(split[p] for p, y in pairs if y == outcome)
        total = sum(counts.values())
        for part, share in (("train", 0.6), ("tune", 0.2), ("test", 0.2)):
            assert abs(counts[part] - share * total) < 2.0


def test_patients_of_one_class_do_not_move_those_of_the_other():
    alone = split_by_share(["a", "b", "c", "d"], [1, 1, 1, 1], Split())
    among = split_by_share(["x", "a", "b", "c", "d", "y"], [0, 1, 1, 1, 1, 0], Split())
    assert {patient: among[patient] for patient in alone} == alone


def test_the_seed_changes_who_is_where_and_nothing_else_does():
    patients, labels = [f"p{k}" for k in range(40)], [0, 1] * 20
    first, other = (split_by_share(patients, labels, Split(seed=seed)) for seed in (0, 1))
    assert first != other
    # Pinned: the same on every machine and Python, for ever.
    assert [p for p in patients if first[p] == "test"] == ["p13", "p14", "p15", "p18", "p20", "p21", "p28", "p39"]
