"""Secure aggregation's arithmetic: numbers as integers modulo 2^64, masks that cancel, shares of seeds, sealed letters.

The scheme is that of Bonawitz et al. (CCS 2017) for few sites, in two legs. A site adds to its numbers a mask of its own
and, for each other site, a mask that the two have in common: one adds it, the other takes it away. It sends the masked
numbers together with Shamir's shares of all its seeds, each share sealed for one site. In the second leg the sites release,
of those whose numbers came, the shares of the own mask, and of the masks shared with a site that went away, the shares of
those; with ``threshold`` of the shares the center takes off what did not cancel. It learns the sum and nothing else.
Against a site's pair masks alone, a late upload after its masks were taken off would be laid open; the own mask prevents it.

Primitives: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-256 in counter mode (NIST SP 800-38A), ChaCha20-Poly1305 (RFC 8439).
"""

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from shared_model.errors import FailureCode, MessageError, RefusedError

Words = NDArray[np.uint64]  # [D], modulo 2^64; on the wire little-endian

MINIMUM_SITES = 3  # a sum over two is no secret for either of them
MAXIMUM_SITES = 200  # shares grow with the cube of the sites
SEED_BYTES = 32
SHARE_BYTES = 33
FIELD = 2**256 + 297  # the smallest prime above 2^256: a seed of 32 bytes is an element
_WORD = 8
_CHUNK = 1 << 17  # words at a time, so that what is temporary stays in the cache


def threshold(sites: int) -> int:
    """How many of ``sites`` must take part in taking off masks: more than two thirds.

    A center that tells some sites that one has dropped out, and others that it has not, then gets enough shares from
    neither half, even with fewer than ``2 * threshold - sites`` sites on its side.
    """
    return 2 * sites // 3 + 1


# ---- fixed point


def fraction_bits(*, sites: int, limit: float) -> int:
    """Binary places with which the sum of one number from each of ``sites``, each of magnitude up to ``limit``, cannot
    overflow: ``sites * limit * 2^bits < 2^62``, a factor of two below the largest int64. At most 40.

    Raises:
        ValueError: there is no room for a single one.
    """
    room = 62 - (max(sites, 1) - 1).bit_length() - int(np.ceil(np.log2(max(limit, 1.0))))
    if room < 1:
        raise ValueError(f"{sites} sites with numbers up to {limit:g} do not fit 64 bits || ask for a smaller limit")
    return min(room, 40)


def encode(values: NDArray[np.floating], *, limit: float, bits: int, weight: float = 1.0) -> Words:
    """``weight`` times ``values`` float ``[D]`` as integers modulo 2^64 with ``bits`` binary places, rounded to nearest.

    Raises:
        RefusedError: ``NOT_FINITE``, or ``NORM_EXCEEDED`` for one beyond ``limit``: as an integer it would be silently wrong.
    """
    words = np.empty(values.size, np.uint64)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK].astype(np.float64) * weight
        if not np.isfinite(part).all():
            raise RefusedError(FailureCode.NOT_FINITE, "a number to be summed is not finite")
        if np.abs(part).max(initial=0.0) > limit:
            raise RefusedError(FailureCode.NORM_EXCEEDED, f"a number to be summed is beyond {limit:g}")
        words[start : start + part.size] = np.rint(np.ldexp(part, bits)).astype(np.int64).view(np.uint64)
    return words


def decode(words: Words, *, bits: int) -> NDArray[np.float64]:
    """The numbers of a sum, float64 ``[D]``."""
    numbers: NDArray[np.float64] = np.ldexp(words.view(np.int64).astype(np.float64), -bits)
    return numbers


# ---- masks


def add_mask(words: Words, seed: bytes, *, negative: bool = False) -> None:
    """Add to ``words``, in place, the stream that ``seed`` (32 bytes, used for one stream only) expands to."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    zeros, buffer = bytes(_CHUNK * _WORD), bytearray(_CHUNK * _WORD + 15)
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        stream.update_into(zeros[: part.size * _WORD], buffer)
        mask = np.frombuffer(buffer, dtype="<u8", count=part.size)
        if negative:
            part -= mask
        else:
            part += mask


def agree(private: X25519PrivateKey, public: bytes, *, salt: bytes, info: bytes) -> bytes:
    """The seed (32 bytes) that two sites have in common: HKDF of their X25519 agreement.

    Raises:
        RefusedError: ``PROTOCOL_MISMATCH`` for a public key that is none, or one of small order, whose secret everybody knows.
    """
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "a public key that no honest site would use") from None
    return HKDF(SHA256(), SEED_BYTES, salt, info).derive(secret)


# ---- shares


def split(secret: bytes, *, shares: int, needed: int) -> list[bytes]:
    """``shares`` shares of ``secret`` (32 bytes), of which any ``needed`` give it back and fewer tell nothing (Shamir 1979).

    Share ``k`` of the list is the polynomial's value at ``k + 1``, 33 bytes.
    """
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(FIELD) for _ in range(needed - 1))]
    return [_evaluate(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, shares + 1)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of which ``shares`` are, by index in the list that ``split`` returned; all given are used.

    Raises:
        MessageError: they are not shares of one secret.
    """
    points = {index + 1: int.from_bytes(share, "big") for index, share in shares.items()}
    secret = 0
    for place, value in points.items():
        numerator = denominator = 1
        for other in points:
            if other != place:
                numerator = numerator * other % FIELD
                denominator = denominator * (other - place) % FIELD
        secret = (secret + value * numerator * pow(denominator, -1, FIELD)) % FIELD
    if secret >= 1 << (8 * SEED_BYTES):
        raise MessageError("shares that belong to no seed")
    return secret.to_bytes(SEED_BYTES, "big")


def _evaluate(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % FIELD
    return value


# ---- sealed letters


def seal(key: bytes, letter: bytes, *, envelope: bytes) -> bytes:
    """``letter`` encrypted and authenticated together with ``envelope``, which is not secret. ``key`` is for one letter only,
    so the nonce may be fixed."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), letter, envelope)


def unseal(key: bytes, sealed: bytes, *, envelope: bytes) -> bytes:
    """The letter in ``sealed``.

    Raises:
        RefusedError: ``PROTOCOL_MISMATCH`` if it was changed, or sealed for somebody or something else.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, envelope)
    except InvalidTag:
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "a sealed share that was not sealed for this sum") from None
