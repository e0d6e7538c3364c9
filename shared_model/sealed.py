"""Named vectors as bytes that tell whether they were harmed: safetensors notices a torn file, and no flipped bit."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

_KEY = "sha256"


def seal(vectors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A safetensors file of ``vectors`` with their SHA-256 in its metadata; the same vectors have the same bytes."""
    contiguous = {name: np.ascontiguousarray(vector) for name, vector in vectors.items()}
    return bytes(save(contiguous, metadata={_KEY: _sha256(contiguous)}))


def unseal(content: bytes) -> dict[str, NDArray[np.float32]] | None:
    """The vectors; None if they are not those that were sealed."""
    try:
        vectors = dict(load(content))
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])["__metadata__"][_KEY]
    except (SafetensorError, ValueError, KeyError):
        return None
    return vectors if told == _sha256(vectors) else None


def _sha256(vectors: Mapping[str, NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name, vector in sorted(vectors.items()):
        digest.update(f"{name} {vector.dtype} {vector.shape}\n".encode())
        digest.update(vector.tobytes())
    return digest.hexdigest()
