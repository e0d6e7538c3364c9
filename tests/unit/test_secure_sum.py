"""Both halves of a secure sum against one another, over every way in which sites can go away."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from server.secure_sum import MaskedSum
from shared_model import masking
from shared_model.errors import FailureCode, RefusedError, StudyError
from tests.wards import LENGTH, Ward, digest


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path, 4)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_masked_sum_is_the_integer_sum_for_every_pattern_of_drop_outs(tmp_path, count):
    """Bit for bit, for every set that uploads and every set of those that then helps to unmask."""
    needed = masking.threshold(count)
    ward = Ward(tmp_path, count)
    names = tuple(ward.sites)
    for size in range(needed, count + 1):
        for step, alive in enumerate(itertools.combinations(names, size)):
            for helpers in (alive, *itertools.combinations(alive, needed)):
                masked = ward.collect(alive, step=f"train/{size}-{step}")
                if not masked.complete:
                    ward.confirm(masked, helpers)
                for name in helpers:
                    ward.release(masked, name)
                assert masked.open().tobytes() == ward.total(alive).tobytes()
                assert masked.wrong == set()


def test_what_the_center_sees_before_the_masks_are_off_is_not_the_sum(ward):
    masked = ward.collect(tuple(ward.sites))
    assert not np.array_equal(masked.total, ward.total(tuple(ward.sites)))


def test_a_wrong_share_is_noticed_and_its_site_named(ward):
    names = tuple(ward.sites)
    masked = ward.collect(names)
    for name in names:
        ward.release(masked, name)
    spoiled = masked.released[names[0]]
    spoiled.own[names[1]] = "00" * 33
    assert masked.open().tobytes() == ward.total(names).tobytes()
    assert masked.wrong == {names[0]}


def test_seeds_that_do_not_fit_what_a_site_said_of_them_give_no_sum(ward):
    names = tuple(ward.sites)
    masked = ward.collect(names)
    for name in names:
        ward.release(masked, name)
    masked.masks[names[2]].__dict__["own"] = "0" * 64
    with pytest.raises(StudyError, match=f"site {names[2]}"):
        masked.open()


# What the center does not take for a site's part


def test_masked_numbers_of_another_sum_or_length_are_refused(ward):
    session = ward.session()
    masked = MaskedSum(session, digest(session), LENGTH)
    words, masks = ward.upload("alpha", session)
    for other, code in (
        (MaskedSum(session, digest(session, b"another model"), LENGTH), FailureCode.STALE_REPLY),
        (MaskedSum(session, digest(session), LENGTH + 1), FailureCode.WRONG_SHAPE),
    ):
        with pytest.raises(RefusedError) as refused:
            other.add("alpha", words, masks)
        assert refused.value.code is code
    masked.add("alpha", words, masks)
    for site, numbers, given in (("alpha", words, masks), ("beta", words, masks), ("beta", None, None)):
        with pytest.raises(RefusedError):
            masked.add(site, numbers, given)
    assert masked.survivors == ("alpha",)


def test_shares_and_signatures_that_were_not_asked_for_are_refused(ward):
    alive = ("alpha", "beta", "delta")
    masked = ward.collect(alive)
    with pytest.raises(RefusedError):
        masked.confirm("alpha", ward.sites["beta"].confirm(masked.digest, masked.survivors))
    ward.confirm(masked, alive)
    shares = ward.sites["alpha"].release(
        masked.digest, masked.survivors, sealed=masked.letters_to("alpha"), confirmations=masked.confirmations
    )
    shares.own["gamma"] = "00" * 33
    with pytest.raises(RefusedError):
        masked.release("alpha", shares)
