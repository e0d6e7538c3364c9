import numpy as np
import pytest

from client.state import SiteState
from shared_model.sealed import seal, unseal

VECTORS = {"control": np.arange(5, dtype=np.float32), "personal": np.ones(3, np.float32)}


def test_what_was_sealed_comes_back() -> None:
    found = unseal(seal(VECTORS))
    assert found is not None
    assert {name: vector.tobytes() for name, vector in found.items()} == {n: v.tobytes() for n, v in VECTORS.items()}
    assert seal(VECTORS) == seal(dict(reversed(VECTORS.items())))


def test_no_flipped_bit_goes_unnoticed() -> None:
    content = seal(VECTORS)
    for place in range(len(content)):
        for bit in (0, 4, 7):
            harmed = bytearray(content)
            harmed[place] ^= 1 << bit
            found = unseal(bytes(harmed))
            # A blank of the header's padding may become another one, which harms nothing.
            assert found is None or {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in VECTORS.items()}


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_no_torn_file_is_taken(size: int) -> None:
    assert unseal(seal(VECTORS)[:size]) is None


def test_a_site_does_not_train_with_a_state_that_was_harmed(tmp_path, caplog) -> None:
    state = SiteState(tmp_path)
    state.save(3, VECTORS, keep=())
    [file] = tmp_path.iterdir()
    assert set(state.load(3)) == set(VECTORS)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert state.load(3) == {}
    assert "round-0003.safetensors is damaged" in caplog.text
