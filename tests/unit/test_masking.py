"""Secure aggregation's arithmetic: the primitives against published vectors, the rest against what must hold."""

import itertools
import math
import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared_model import masking
from shared_model.errors import FailureCode, MessageError, RefusedError

SECRET = st.binary(min_size=32, max_size=32)


# ---- published vectors


def test_key_agreement_is_that_of_rfc_7748_section_6_1():
    alice = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = X25519PrivateKey.from_private_bytes(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    theirs = bob.public_key().public_bytes_raw()
    assert theirs.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    expected = HKDF(SHA256(), 32, b"salt", b"info").derive(shared)
    assert masking.agree(alice, theirs, salt=b"salt", info=b"info") == expected


def test_key_derivation_is_that_of_rfc_5869_case_a_1():
    derived = HKDF(SHA256(), 42, bytes(range(13)), bytes(range(0xF0, 0xFA))).derive(b"\x0b" * 22)
    assert derived.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_the_cipher_of_sealed_letters_is_that_of_rfc_8439_section_2_3_2():
    nonce = bytes.fromhex("000000090000004a00000000")
    block = Cipher(algorithms.ChaCha20(bytes(range(32)), (1).to_bytes(4, "little") + nonce), None).encryptor().update(bytes(64))
    assert block.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_stream_of_masks_is_counter_mode_of_nist_sp_800_38a():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    encrypt = Cipher(algorithms.AES(key), modes.CTR(bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"))).encryptor()
    assert encrypt.update(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")).hex() == "601ec313775789a5b7a7f504bbf3d228"
    words = np.zeros(300_000, np.uint64)  # more than two chunks, and no whole number of them
    masking.add_mask(words, key)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * words.size))
    assert words.astype("<u8").tobytes() == stream
    masking.add_mask(words, key, negative=True)
    assert not words.any()


def test_a_public_key_whose_secret_everybody_knows_is_refused():
    with pytest.raises(RefusedError):
        masking.agree(X25519PrivateKey.generate(), bytes(32), salt=b"", info=b"")
    with pytest.raises(RefusedError):
        masking.agree(X25519PrivateKey.generate(), b"short", salt=b"", info=b"")


# ---- shares


@settings(max_examples=50, deadline=None)
@given(SECRET, st.integers(1, 7), st.data())
def test_any_threshold_of_shares_gives_the_secret_back(secret, shares, data):
    needed = data.draw(st.integers(1, shares))
    made = masking.split(secret, shares=shares, needed=needed)
    for chosen in itertools.combinations(range(shares), needed):
        assert masking.join({index: made[index] for index in chosen}) == secret
    assert masking.join(dict(enumerate(made))) == secret


@settings(max_examples=25, deadline=None)
@given(SECRET, SECRET, st.integers(2, 5), st.data())
def test_fewer_shares_fit_every_secret_equally_well(secret, other, shares, data):
    """For any t - 1 shares of one secret and any other secret there is a polynomial through all of them: they tell nothing."""
    needed = data.draw(st.integers(2, shares))
    made = masking.split(secret, shares=shares, needed=needed)
    few = {index: made[index] for index in data.draw(st.permutations(range(shares)))[: needed - 1]}
    points = {0: int.from_bytes(other, "big")} | {i + 1: int.from_bytes(share, "big") for i, share in few.items()}
    missing = next(place for place in range(1, shares + 1) if place not in points)
    forged = few | {missing - 1: lagrange(points, missing).to_bytes(masking.SHARE_BYTES, "big")}
    assert masking.join(forged) == other


def lagrange(points: dict[int, int], at: int) -> int:
    total = 0
    for place, value in points.items():
        term = value
        for other in points:
            if other != place:
                term = term * (at - other) * pow(place - other, -1, masking.FIELD) % masking.FIELD
        total += term
    return total % masking.FIELD


def test_too_few_shares_give_another_secret_or_none():
    secret = bytes(range(32))
    made = masking.split(secret, shares=5, needed=4)
    for chosen in itertools.combinations(range(5), 3):
        try:
            assert masking.join({index: made[index] for index in chosen}) != secret
        except MessageError:
            continue


def test_shares_of_one_secret_differ_every_time():
    assert masking.split(bytes(32), shares=3, needed=2) != masking.split(bytes(32), shares=3, needed=2)


@pytest.mark.parametrize(("sites", "needed"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)])
def test_the_threshold_is_above_two_thirds(sites, needed):
    assert masking.threshold(sites) == needed
    assert 2 * needed > sites, "two contradictory answers about one site cannot both reach it"


# ---- fixed point


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.floats(1e-3, 1e13), st.data())
def test_a_sum_never_overflows_and_is_right_to_half_a_unit_a_site(sites, limit, data):
    bits = masking.fraction_bits(sites=sites, limit=limit)
    values = np.array(data.draw(st.lists(st.floats(-limit, limit), min_size=sites, max_size=sites)))
    assert sites * limit * 2.0**bits < 2.0**63
    total = np.zeros(1, np.uint64)
    for value in values:
        total += masking.encode(np.array([value]), limit=limit, bits=bits)
    exact = math.fsum(values)
    assert abs(masking.decode(total, bits=bits)[0] - exact) <= sites * 2.0 ** -(bits + 1) + abs(exact) * 2.0**-52


def test_the_largest_numbers_of_all_sites_together_do_not_overflow():
    for sites, limit in [(1, 1e3), (3, 2.0**30), (200, 2.0**40), (7, 1.0)]:
        bits = masking.fraction_bits(sites=sites, limit=limit)
        for sign in (1.0, -1.0):
            total = np.zeros(1, np.uint64)
            for _ in range(sites):
                total += masking.encode(np.array([sign * limit]), limit=limit, bits=bits)
            assert masking.decode(total, bits=bits)[0] == sign * sites * limit


def test_a_range_without_room_is_refused():
    with pytest.raises(ValueError, match="smaller limit"):
        masking.fraction_bits(sites=200, limit=1e18)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_never_becomes_an_integer(value):
    values = np.zeros(200_000)
    values[-1] = value
    with pytest.raises(RefusedError) as refused:
        masking.encode(values, limit=1.0, bits=20)
    assert refused.value.code is FailureCode.NOT_FINITE


def test_a_number_beyond_the_limit_is_refused():
    with pytest.raises(RefusedError) as refused:
        masking.encode(np.array([1.0, -1.01]), limit=1.0, bits=20)
    assert refused.value.code is FailureCode.NORM_EXCEEDED


# ---- masks


def test_one_masked_upload_looks_uniform():
    """Chi-square over bytes and over the high bits of what a site sends, for an update that is anything but."""
    generator = random.Random(7)
    words = masking.encode(np.full(200_000, 0.125), limit=1.0, bits=40)
    assert stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue < 1e-12, "the test can fail"
    masking.add_mask(words, generator.randbytes(32))
    masking.add_mask(words, generator.randbytes(32), negative=True)
    assert stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue > 1e-3
    assert stats.chisquare(np.bincount((words >> np.uint64(54)).astype(np.int64), minlength=1024)).pvalue > 1e-3


# ---- sealed letters


def test_a_letter_opens_only_as_it_was_sealed():
    key = bytes(range(32))
    sealed = masking.seal(key, b"share", envelope=b"from a to b")
    assert masking.unseal(key, sealed, envelope=b"from a to b") == b"share"
    changed = bytes([sealed[0] ^ 1]) + sealed[1:]
    for other in ((key, changed, b"from a to b"), (key, sealed, b"from a to c"), (bytes(32), sealed, b"from a to b")):
        with pytest.raises(RefusedError):
            masking.unseal(other[0], other[1], envelope=other[2])
