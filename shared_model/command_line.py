"""What both commands share: a user's mistake becomes a message and an exit code, never a traceback."""

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from shared_model.errors import CohortError, ConfigurationError, ConsiliumError

USER_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


_REMEDIES = {
    errno.EACCES: "give this user access to it, or name another path",
    errno.EPERM: "give this user access to it, or name another path",
    errno.EROFS: "mount it so that it can be written to, or name another path",
    errno.ENOENT: "make that folder, or name another path",
    errno.ENOTDIR: "name another path",
    errno.ENOSPC: "make space on that disk",
}


def in_words(error: OSError) -> str:
    """A full disk, a folder that may not be written: the system's own words name the file; and what to do."""
    remedy = _REMEDIES.get(error.errno or 0)
    mended = f"{remedy}; " if remedy else ""
    return f"{error}; {mended}what was finished is kept, and the same command goes on from there"


@contextmanager
def errors_to_exit_codes(*, as_json: bool = False) -> Iterator[None]:
    """Print a ``ConsiliumError`` and exit: 2 for what the user can mend in files or options, 1 for the rest.

    ``as_json`` prints the former as a document of the keys ``ok`` and ``problems``, on standard output.
    """
    try:
        yield
    except (ConfigurationError, CohortError) as error:
        if as_json:
            print(json.dumps({"ok": False, "problems": [asdict(fault) for fault in error.faults]}, indent=2))
        else:
            print(error, file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except ConsiliumError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(FAILURE) from None
    except OSError as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        raise SystemExit(FAILURE) from None
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
