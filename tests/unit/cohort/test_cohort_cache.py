import os
import stat
import time
from pathlib import Path

import pytest
import torch

from client.cohort.cache import Slot

TENSORS = {"images": torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4), "empty": torch.zeros((0, 2), dtype=torch.int64)}


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path))
    return Slot("alpha-toy", "k" * 64)


def same(stored: dict[str, torch.Tensor] | None) -> bool:
    return stored is not None and stored.keys() == TENSORS.keys() and all(torch.equal(stored[n], TENSORS[n]) for n in TENSORS)


def test_what_was_stored_is_read_again(slot: Slot):
    assert slot.read() == (None, "built")
    assert slot.write(TENSORS) is None
    stored, state = slot.read()
    assert same(stored)
    assert state == "read"


def test_only_this_user_may_read_it(slot: Slot):
    slot.write(TENSORS)
    assert stat.S_IMODE(slot.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(slot.path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in slot.path.parent.iterdir()] == [slot.path.name]


def test_another_key_is_another_content(slot: Slot):
    slot.write(TENSORS)
    stored, state = Slot(slot.name, "other").read()
    assert stored is None
    assert "changed" in state


def test_every_truncation_and_every_flipped_bit_is_noticed(slot: Slot):
    slot.write(TENSORS)
    whole = slot.path.read_bytes()
    for length in range(0, len(whole), 7):
        slot.path.write_bytes(whole[:length])
        assert slot.read()[0] is None
    for place in range(len(whole)):
        slot.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        stored, _ = slot.read()
        assert stored is None or same(stored), f"byte {place}"
    slot.path.write_bytes(whole)
    assert same(slot.read()[0])


def test_no_place_for_a_cache_is_no_failure(slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("CONSILIUM_CACHE", str(blocked))
    assert slot.write(TENSORS).startswith("not kept: ")
    assert slot.read()[0] is None


def test_a_full_disk_leaves_the_old_cache_and_nothing_half_written(slot: Slot, monkeypatch: pytest.MonkeyPatch):
    slot.write(TENSORS)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in Slot(slot.name, "new").write(TENSORS)
    assert [entry.name for entry in slot.path.parent.iterdir()] == [slot.path.name]
    assert same(slot.read()[0])


def test_what_a_killed_process_left_is_swept_but_not_what_another_writes_now(slot: Slot):
    slot.write(TENSORS)
    old, new = (slot.path.parent / f".{slot.path.name}.{name}" for name in ("old", "new"))
    for leftover in (old, new):
        leftover.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    slot.write(TENSORS)
    assert not old.exists()
    assert new.exists()


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CONSILIUM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert Slot("a", "k").path == Path("/xdg/consilium/cohorts/a.safetensors")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert Slot("a", "k").path == Path("/home/me/.cache/consilium/cohorts/a.safetensors")
