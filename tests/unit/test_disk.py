import errno
import sqlite3
from pathlib import Path

import pytest

from server import disk
from server.disk import cannot_write, disk_trouble


def test_a_full_disk_is_told_with_what_to_do() -> None:
    told = disk_trouble(OSError(errno.ENOSPC, "No space left on device"), at=Path("runs/first"))
    assert told is not None
    assert "runs/first: No space left on device" in told
    assert "Make room" in told


def test_so_is_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "journal.sqlite").close()
    database = sqlite3.connect(f"file:{tmp_path / 'journal.sqlite'}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as raised:
        database.execute("CREATE TABLE fact (key TEXT)")
    database.close()
    assert "readonly" in str(disk_trouble(raised.value, at=tmp_path))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "gone"), ValueError("x"), sqlite3.OperationalError("locked")]
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert disk_trouble(error, at=Path()) is None


def test_whether_a_folder_can_be_written_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cannot_write(tmp_path) is None
    assert list(tmp_path.iterdir()) == []

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write_durably", full)
    assert "No space left" in str(cannot_write(tmp_path))
