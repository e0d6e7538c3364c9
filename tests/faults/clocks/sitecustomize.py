"""A clock that a file sets: seconds ahead of the true one. Python reads this in every process that has its folder on the path.

The processes are the real ones; what they take for the time is not. Certificates are judged by the true clock all the same.
"""

import datetime
import os
import time
from pathlib import Path

_FILE = Path(os.environ["CONSILIUM_TEST_CLOCK"])
_now, _datetime = time.time, datetime.datetime


def _shifted() -> float:
    try:
        return _now() + float(_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):  # it is being written
        return _now()


class _AsDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _datetime)


class _Shifted(_datetime, metaclass=_AsDatetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return _datetime.fromtimestamp(_shifted(), tz)


time.time = _shifted
datetime.datetime = _Shifted
