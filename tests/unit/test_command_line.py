"""What a user is told when the system refuses a file."""

import errno
import os

import pytest

from shared_model.command_line import errors_to_exit_codes, in_words


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "give this user access to it"),
        (errno.ENOSPC, "make space on that disk"),
        (errno.ENOENT, "make that folder"),
        (errno.EROFS, "mount it so that it can be written to"),
    ],
)
def test_a_file_that_the_system_refuses_is_named_and_mended(code: int, remedy: str) -> None:
    told = in_words(OSError(code, os.strerror(code), "closed/request.json"))
    assert "'closed/request.json'" in told
    assert remedy in told


def test_it_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_to_exit_codes():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/journal.sqlite")
    assert ended.value.code == 1
    assert "make space" in capsys.readouterr().err
