"""Randomness that nobody can foresee: every draw of private training comes from here.

No seed of a study reaches it, and its state is neither logged nor stored. It is not cryptographically secure: see the README
on floating-point noise.
"""

import os
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

_WORDS = 624  # of 32 bits: the state of the Mersenne Twister
_HEADER, _WORDS_AT = "<QiiQ", 24  # seed, words left, seeded, next word; then the words, each in 8 bytes


def fresh_generator() -> torch.Generator:
    """A generator of the CPU whose whole state comes from the operating system.

    ``manual_seed`` would not do: the CPU's generator uses the lower 32 bits of a seed, few enough to try them all.
    """
    generator = torch.Generator()
    generator.set_state(_state(struct.unpack(f"<{_WORDS}I", os.urandom(4 * _WORDS))))
    return generator


def seed_globals(generator: torch.Generator, device: torch.device) -> None:
    """Let dropout, too, follow from ``generator``; to be called within ``torch.random.fork_rng``.

    Dropout draws for one patient of a batch after the other: whoever knew the draws could tell who came before whom.
    """
    words = torch.randint(2**32, (_WORDS,), generator=generator).tolist()
    torch.set_rng_state(_state(words))
    if device.type == "cuda":
        torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=generator)))


def _state(words: Sequence[int]) -> Tensor:
    """The state of a CPU generator with these words, all of them used up: the first draw already mixes them."""
    state = bytearray(torch.Generator().get_state().numpy().tobytes())
    struct.pack_into(_HEADER, state, 0, 0, 1, 1, 0)
    struct.pack_into(f"<{_WORDS}Q", state, _WORDS_AT, *words)
    return torch.frombuffer(state, dtype=torch.uint8).clone()
