"""What both commands share: a user's mistake becomes a message and an exit code, never a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shared_model.errors import CohortError, ConfigurationError, ConsiliumError

USER_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """Print a ``ConsiliumError`` and exit: 2 for what the user can mend in files or options, 1 for the rest."""
    try:
        yield
    except (ConfigurationError, CohortError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except ConsiliumError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(FAILURE) from None
    except OSError as error:
        # A full disk, a folder that may not be written: the system's own words name the file.
        print(f"error: {error}; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(FAILURE) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last finished round", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
