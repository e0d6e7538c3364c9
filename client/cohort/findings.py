"""What was found on the way from files to tensors. It is the site's own: nothing of it leaves the hospital."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared_model.messages import Part

Topic = Literal["patients", "labels", "parts", "mapping", "units", "ranges", "missing", "images"]


@dataclass(frozen=True)
class Notice:
    """Something that does not stop a study but that its owner should know; ``remedy`` is what to do about it.

    ``topic`` is the check of ``consilium-site check`` to which it belongs.
    """

    what: str
    remedy: str
    topic: Topic = "images"


@dataclass(frozen=True)
class OutcomeCounts:
    """Labelled patients of one part of the cohort."""

    patients: int
    positives: int


@dataclass(frozen=True)
class OutcomeFinding:
    """One variable among the patients of one outcome: quartiles in the protocol's unit, or counts of categories."""

    patients: int
    missing: int
    quartiles: tuple[float, float, float] | None = None
    categories: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing_share(self) -> float:
        """Share of these patients without a usable value, 0..1; 0 of nobody."""
        return self.missing / self.patients if self.patients else 0.0


@dataclass(frozen=True)
class VariableFinding:
    """One variable or comparator of the protocol at this site, among included patients.

    ``column`` is None where the site does not map it. ``factor`` turned the site's ``unit`` into the protocol's.
    ``low``, ``median``, ``high`` are in the protocol's unit, before any logarithm, of plausible values only.
    ``out_of_range``, ``no_number`` and ``unmapped`` count cells, which became missing; the last two by their text.
    ``better_unit`` would have brought more values into the range than ``unit``. ``by_outcome`` is the same for "negative"
    and "positive" patients apart.
    """

    column: str | None
    unit: str | None = None
    factor: float = 1.0
    patients: int = 0
    missing: int = 0
    low: float | None = None
    median: float | None = None
    high: float | None = None
    categories: Mapping[str, int] = field(default_factory=dict)
    out_of_range: int = 0
    better_unit: str | None = None
    no_number: Mapping[str, int] = field(default_factory=dict)
    unmapped: Mapping[str, int] = field(default_factory=dict)
    by_outcome: Mapping[str, OutcomeFinding] = field(default_factory=dict)

    @property
    def missing_share(self) -> float:
        """Share of included patients without a usable value, 0..1; 0 of nobody."""
        return self.missing / self.patients if self.patients else 0.0


@dataclass(frozen=True)
class UnusableFile:
    """A picture that was left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class ImageFindings:
    """Images of included patients. ``by_view`` counts images in use, ``beyond_limit`` those over the protocol's
    ``per_patient``, ``unmapped_views`` those whose view code the site does not map. ``of_nobody`` counts rows of the
    image table whose patient is not in the cohort table. ``unscaled`` counts images in use whose physical scale is unknown,
    where the protocol wants one. ``skipped`` counts files of a DICOM folder that are no
    ultrasound pictures, by reason. ``cache`` says what became of the tensor cache."""

    found: int
    used: int
    by_view: Mapping[str, int]
    beyond_limit: int
    unmapped_views: Mapping[str, int]
    of_nobody: int
    unusable: tuple[UnusableFile, ...]
    patients_without: int
    unscaled: int
    cache: str
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Everything that was counted. ``found`` patients passed the row filter, ``included`` are in the tensors."""

    found: int
    included: int
    excluded: Mapping[str, int]
    rows_without_id: int
    ignored_labels: Mapping[str, int]
    unlisted_parts: Mapping[str, int]
    parts: Mapping[Part, OutcomeCounts]
    variables: Mapping[str, VariableFinding]
    images: ImageFindings | None
    notices: tuple[Notice, ...] = ()
