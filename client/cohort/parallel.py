"""Many small pieces of work at once, in threads, with progress told."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # what is being done, how many of how many are done

_THREADS = min(16, 2 * (os.cpu_count() or 1))
_AT_ONCE = 4096  # waiting tasks; each takes memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], doing: str, on_progress: Progress) -> list[Result]:
    """``function`` of every item, in order; reading and decoding leave the interpreter free for other threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        slices = (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
        results = (result for piece in slices for result in pool.map(function, piece))
        return list(_counted(results, len(items), doing, on_progress))


def _counted(results: Iterable[Result], total: int, doing: str, on_progress: Progress) -> Iterator[Result]:
    for done, result in enumerate(results, 1):
        on_progress(doing, done, total)
        yield result
