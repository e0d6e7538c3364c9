"""Patients by predicted probability: from it follow pooled ROC, AUC, precision, calibration and net benefit."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import MessageError
from shared_model.record import Record

Ints = NDArray[np.int64]
COARSE = 20  # steps of [0, 1] to which the ends of merged bins are rounded outwards, so that they tell nobody's score


@dataclass(frozen=True)
class ScoreHistogram(Record):
    """Patients of each outcome class in intervals of the predicted probability.

    A study has one fine grid: [0, 1] in ``bins`` equal bins. An interval is a run of them, ``starts[i]`` up to, but not
    with, ``stops[i]``; the last bin includes 1.0. Intervals of several sites may overlap. Two histograms add by adding the
    counts of equal intervals and keeping the others, so that addition is associative and commutative whatever each site merged.

    Attributes:
        bins: of the fine grid.
        starts, stops: of each interval with somebody in it, ascending, without repetition; 0 <= start < stop <= bins.
        negatives, positives: patients in each interval.
    """

    bins: int
    starts: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    negatives: tuple[int, ...] = ()
    positives: tuple[int, ...] = ()

    @classmethod
    def of(cls, scores: NDArray[np.float64], labels: NDArray[np.float64], *, bins: int) -> Self:
        """Histogram on the fine grid of ``scores`` float ``[n]`` in 0..1 with ``labels`` ``[n]`` 0 or 1."""
        # Searched for, not multiplied: a score on an edge k / bins belongs to bin k, and counts at that threshold are exact.
        index = np.minimum(np.searchsorted(np.arange(bins + 1) / bins, scores, side="right") - 1, bins - 1)
        return cls.of_bins(np.bincount(index[labels == 0], minlength=bins), np.bincount(index[labels == 1], minlength=bins))

    @classmethod
    def of_bins(cls, negatives: Ints, positives: Ints) -> Self:
        """Histogram from the counts of every bin of the fine grid, each ``[bins]``; inverse of ``by_bin``."""
        cells = zip(range(negatives.size), range(1, negatives.size + 1), negatives.tolist(), positives.tolist(), strict=True)
        return cls._of_cells(negatives.size, cells)

    @classmethod
    def zero(cls, bins: int) -> Self:
        """The histogram of nobody."""
        return cls(bins)

    @classmethod
    def _of_cells(cls, bins: int, cells: Iterable[tuple[int, int, int, int]]) -> Self:
        filled = sorted(cell for cell in cells if cell[2] or cell[3])
        starts, stops, negatives, positives = zip(*filled, strict=True) if filled else ((), (), (), ())
        return cls(bins, starts, stops, negatives, positives)

    def __add__(self, other: Self) -> Self:
        if self.bins != other.bins:
            raise MessageError(f"histograms on {self.bins} and {other.bins} bins do not add")
        totals: dict[tuple[int, int], tuple[int, int]] = {}
        for histogram in (self, other):
            for start, stop, negatives, positives in histogram.cells:
                before = totals.get((start, stop), (0, 0))
                totals[start, stop] = (before[0] + negatives, before[1] + positives)
        return self._of_cells(self.bins, ((*interval, *counts) for interval, counts in totals.items()))

    @property
    def well_formed(self) -> bool:
        """Whether intervals ascend, lie on the grid, and have a count of each class."""
        lengths = {len(column) for column in (self.starts, self.stops, self.negatives, self.positives)}
        if len(lengths) != 1 or not all(0 <= a < b <= self.bins for a, b in zip(self.starts, self.stops, strict=True)):
            return False
        return all(before < after for before, after in pairwise(zip(self.starts, self.stops, strict=True)))

    @property
    def cells(self) -> list[tuple[int, int, int, int]]:
        """Start, stop, negatives and positives of each interval."""
        return list(zip(self.starts, self.stops, self.negatives, self.positives, strict=True))

    @property
    def merged(self) -> bool:
        """Whether an interval spans several bins."""
        return any(stop - start != 1 for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def by_bin(self) -> tuple[Ints, Ints]:
        """Negatives and positives in every bin of the fine grid, each ``[bins]``.

        Raises:
            MessageError: an interval spans several bins, so that nobody knows.
        """
        if self.merged:
            raise MessageError("merged intervals cannot be told apart by bin")
        negatives, positives = np.zeros(self.bins, np.int64), np.zeros(self.bins, np.int64)
        negatives[list(self.starts)], positives[list(self.starts)] = self.negatives, self.positives
        return negatives, positives

    def coarsened(self, minimum_cell: int) -> Self:
        """The same patients in intervals that hold at least ``minimum_cell`` of a class, or nobody of it.

        The two classes are merged apart, so that intervals of one may overlap those of the other. Merging starts at the
        lowest score; what is left at the highest joins the last interval. A class of fewer patients becomes one interval.
        """
        cells = [(start, stop, count, 0) for start, stop, count in self._merged(self.negatives, minimum_cell)]
        cells += [(start, stop, 0, count) for start, stop, count in self._merged(self.positives, minimum_cell)]
        both: dict[tuple[int, int], tuple[int, int]] = {}
        for start, stop, negatives, positives in cells:
            before = both.get((start, stop), (0, 0))
            both[start, stop] = (before[0] + negatives, before[1] + positives)
        return self._of_cells(self.bins, ((*interval, *counts) for interval, counts in both.items()))

    def _merged(self, counts: tuple[int, ...], minimum: int) -> list[tuple[int, int, int]]:
        """Disjoint intervals, each of at least ``minimum`` patients; overlapping ones are joined."""
        merged: list[tuple[int, int, int]] = []
        step = max(1, self.bins // COARSE)
        begun, reached, held = 0, 0, 0
        for start, stop, count in zip(self.starts, self.stops, counts, strict=True):
            if count and held >= minimum and start >= reached:
                merged.append((begun, reached, held))
                held = 0
            if count and not held:
                begun = max(reached, start // step * step)
            if count:
                reached, held = max(reached, stop), held + count
        if not held:
            return merged
        if held < minimum and merged:
            begun, held = merged[-1][0], merged[-1][2] + held
            merged.pop()
        return [*merged, (begun, min(self.bins, -(-reached // step) * step), held)]

    def at_least(self, threshold: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many negatives, and how many positives, score ``threshold`` or more: fewest and most that it can be."""
        surely = [start / self.bins >= threshold for start in self.starts]
        maybe = [stop / self.bins > threshold or stop == self.bins for stop in self.stops]

        def between(counts: tuple[int, ...]) -> tuple[int, int]:
            fewest = sum(count for count, yes in zip(counts, surely, strict=True) if yes)
            return fewest, sum(count for count, yes in zip(counts, maybe, strict=True) if yes)

        return between(self.negatives), between(self.positives)
