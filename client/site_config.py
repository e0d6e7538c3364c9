"""``site.toml``: how one hospital's own export maps to the variables and views of a study.

Paths are relative to the file itself and may hold ``${NAME}`` for an environment variable.
"""

import itertools
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared_model import config_file
from shared_model.config_file import Strict
from shared_model.disclosure import Rule
from shared_model.messages import Part
from shared_model.protocol_words import Fraction, Positive

Scalar = str | int | float | bool
TaskName = Literal["describe", "train", "evaluate", "explain"]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def canonical_code(value: Scalar) -> str:
    """One spelling for every way in which an export writes one code; codes are equal if this is.

    Surrounding blanks do not count, numbers are compared as numbers and truth values in any case. All else is text.

    >>> {canonical_code(value) for value in (1, 1.0, "1", " 1.0 ", "01", "1e0")}
    {'1'}
    >>> canonical_code("TRUE") == canonical_code(True), canonical_code("N1b") == canonical_code("n1b")
    (True, False)
    """
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        return format((Decimal(text) + 0).normalize(), "f")
    return text.lower() if text.lower() in {"true", "false"} else text


class Site(Strict):
    """The hospital; ``name`` is shown in reports and must be unique in a study."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    title: str = ""


class Between(Strict):
    """Rows whose number lies in [``min``, ``max``]; an open end is left out."""

    min: float | None = None
    max: float | None = None


class Label(Strict):
    """Which codes of ``column`` mean positive and negative. Patients without a value, or with a code of ``ignore``, are
    left out and counted; any other code is an error, lest a whole group of patients vanish unnoticed."""

    column: str
    positive: tuple[Scalar, ...] = Field(min_length=1)
    negative: tuple[Scalar, ...] = Field(min_length=1)
    ignore: tuple[Scalar, ...] = ()

    @model_validator(mode="after")
    def _codes_are_distinct(self) -> Self:
        lists = (self.positive, self.negative, self.ignore)
        codes = [code for codes in lists for code in {canonical_code(code) for code in codes}]
        if twice := sorted({code for code in codes if codes.count(code) > 1}):
            raise ValueError(f"each code is in one list, but {twice} is in several || remove it from all but one of the lists")
        return self


class Mapping(Strict):
    """Where a protocol variable comes from: ``unit`` for numeric ones, ``codes`` (local code -> category) for categorical
    ones. ``codes`` may be left out where the column holds the protocol's category names, or numbers, already; for a
    numeric variable they replace single cells that are no number (``{"<0.01" = 0.005}``), in the column's unit.

    Instead of ``column``, ``from`` and ``to`` name two columns of dates: the variable is the time between them, in ``unit``
    (years by default).

    ``missing`` lists values that mean missing in this column only (``[0, 999]``). ``combine`` says what to do where a
    patient has several rows that differ (``agree``: that is an error).
    """

    column: str = ""
    since: str | None = Field(default=None, alias="from")
    to: str | None = None
    unit: str | None = None
    codes: dict[str, Scalar] | None = None
    missing: tuple[Scalar, ...] = ()
    combine: Literal["agree", "first", "last", "min", "max", "mean"] = "agree"

    @model_validator(mode="after")
    def _column_or_dates(self) -> Self:
        if bool(self.column) == bool(self.since or self.to) or bool(self.since) != bool(self.to):
            raise ValueError("a column, or two columns of dates || give column = ..., or both from = ... and to = ...")
        return self


class TableFormat(Strict):
    """How to read a table. ``missing`` lists the spellings of a missing value besides the empty cell; ``separator`` is found
    by itself among comma, semicolon and tab; ``columns`` names the columns of a file without a header row. ``header_row``
    is the row, counted from 1 without empty ones, that holds the names, and ``skip_rows`` how many below it hold no patient.
    """

    missing: tuple[Scalar, ...] = ()
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8-sig"
    sheet: str | None = None
    columns: tuple[str, ...] | None = None
    header_row: int = Field(default=1, ge=1)
    skip_rows: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if self.columns is not None and self.header_row != 1:
            raise ValueError("the names are in the file or in columns || remove columns, or header_row")
        return self


class Long(Strict):
    """A long table, one row a measurement: ``name`` is the column that says what was measured, ``value`` the one that holds
    the result. Each name becomes a column."""

    name: str
    value: str


class Cohort(TableFormat):
    """The table of patients. ``patient_id`` = "#row" numbers the rows where the export has no identifier.

    ``where`` keeps rows whose column equals a value, is one of several, or lies between two numbers. ``require`` leaves
    out, and counts, patients without a value of the variables named. ``comparators`` are mapped as variables are, from a column
    each; they are never an input. ``date_order`` says how dates such as 03/04/2021 are
    meant, where a column does not show it.

    ``redcap_dictionary`` is REDCap's data dictionary (csv): its choices give codes a meaning, and fields named as a variable
    of the study need no mapping. ``redcap_events`` and ``redcap_instruments`` (of those that repeat) keep these rows only.
    """

    table: str
    patient_id: str
    label: Label
    where: dict[str, Scalar | tuple[Scalar, ...] | Between] = Field(default_factory=dict)
    variables: dict[str, Mapping] = Field(default_factory=dict)
    comparators: dict[str, Mapping] = Field(default_factory=dict)
    require: tuple[str, ...] = ()
    long: Long | None = None
    date_order: Literal["dmy", "mdy"] | None = None
    redcap_dictionary: str | None = None
    redcap_events: tuple[str, ...] = ()
    redcap_instruments: tuple[str, ...] | None = None


class ViewColumn(Strict):
    """What tells the view: a ``column`` of the table of images, a DICOM ``tag`` (or several, joined by a blank), or nothing,
    as ``all`` images are one view. ``codes`` maps local code -> view of the protocol, and is compared first; ``match`` maps
    regular expression -> view, found anywhere in the text, in upper or lower case, the first that fits.
    """

    column: str | None = None
    tag: str | tuple[str, ...] | None = None
    codes: dict[str, str] = Field(default_factory=dict)
    match: dict[str, str] = Field(default_factory=dict)
    all: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.column, self.tag, self.all)) != 1:
            raise ValueError('a column with codes, or all = "view" (or, with images.dicom, a tag) || keep one of the two')
        return self

    @property
    def tags(self) -> tuple[str, ...]:
        """The DICOM tags by keyword; none where a column or ``all`` tells the view."""
        return (self.tag,) if isinstance(self.tag, str) else self.tag or ()

    def view_of(self, *texts: str) -> str | None:
        """The view that one of ``texts`` (the spellings of one value) means; None if no code and no pattern fits."""
        if self.all is not None:
            return self.all
        held = {canonical_code(text) for text in texts}
        exact = (view for code, view in self.codes.items() if canonical_code(code) in held)
        found = (view for pattern, view in self.match.items() if any(re.search(pattern, text, re.IGNORECASE) for text in texts))
        return next(itertools.chain(exact, found), None)

    @property
    def named(self) -> dict[str, str]:
        """Every key of this record that names a view of the protocol, with the view."""
        found = {"all": self.all} if self.all is not None else {}
        found |= {f"codes.{code}": view for code, view in self.codes.items()}
        return found | {f"match.{pattern}": view for pattern, view in self.match.items()}


class Images(TableFormat):
    """Where the images are: a table, one row each (it may be the cohort's own), or a folder of DICOM objects.

    In a table, ``file`` is a column, or a pattern such as ``"Images/{ID}.png"`` over columns, relative to ``folder`` (default:
    the table's own folder). A pattern may take a part of a cell as Python slices do: ``"Masks/mask_{ID[4:]}.png"``.
    ``roi`` names four columns with the lesion's box ``x0, y0, x1, y1`` in pixels of the stored image, and ``mask`` a
    column or pattern with a picture of the lesion's outline. ``mm_per_pixel`` is the physical size of a pixel of the stored
    image, or the column that holds it. ``max_unusable`` is the share of files that may be unreadable before the site
    refuses to take part.

    With ``dicom``, all ultrasound objects of that folder and those below it are read, and ``patient_id`` and ``view.tag``
    name DICOM tags by keyword. ``patient_column`` is the column of the cohort table that holds the value of that tag, where
    it is not the cohort's own identifier. A ``table`` may then say more of each object, found by its ``uid`` (a column with
    the SOP instance UID) or by ``file`` (its name or path): ``patient_id``, ``view.column`` and ``roi`` are columns of it.
    ``frames`` are those to take of a clip, ``flow`` the view that the colours of colour Doppler become. ``region`` says what to
    do where an object declares no ultrasound region that fits (``detect`` it, leave the picture out, or use this box), and
    ``burned_in`` what to do about text and callipers within it.
    """

    table: str | None = None
    dicom: str | None = None
    patient_id: str | None = None
    patient_column: str | None = None
    file: str | None = None
    uid: str | None = None
    view: ViewColumn
    flow: str | None = None
    frames: Literal["first", "middle", "all"] = "first"
    region: Literal["detect", "declared"] | tuple[int, int, int, int] = "detect"
    burned_in: Literal["mask", "refuse", "keep"] = "mask"
    secondary_capture: bool = False
    where: dict[str, Scalar | tuple[Scalar, ...] | Between] = Field(default_factory=dict)
    folder: str | None = None
    roi: tuple[str, str, str, str] | None = None
    mask: str | None = None
    mm_per_pixel: Positive | str | None = None
    max_unusable: Fraction = 0.1


class Split(Strict):
    """Parts of the cohort, by patient: shares (stratified by outcome, the same on every machine), or a column whose
    codes name the part."""

    train: Fraction = 0.6
    tune: Fraction = 0.2
    test: Fraction = 0.2
    seed: int = 0
    column: str | None = None
    codes: dict[str, Part] = {"train": "train", "tune": "tune", "test": "test"}

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if self.column is None and abs(self.train + self.tune + self.test - 1.0) > 1e-9:
            raise ValueError("train + tune + test = 1 || change one of the three")
        return self


class Policy(Strict):
    """What this hospital allows, whatever a study asks for.

    ``epsilon_limit`` and ``delta`` bound what all studies together may learn of a training patient, for good;
    with ``dp_required`` no study trains here without differential privacy.
    With ``secure_sum_required`` none does whose center could see this site's update; ``minimum_summed_sites`` is the fewest,
    this one included, over whom it is summed. ``minimum_cell`` is the fewest patients in a cell
    that is told. A protocol may run for at most ``max_rounds`` rounds, in ``max_runs`` runs, each of which may ask for at most
    ``max_evaluations`` evaluations: whoever may choose models freely learns of patients by asking often. ``small_changes``
    says what to do if the cohort differs by fewer than ``minimum_cell`` patients from one of which something was told.
    With fewer than ``minimum_gradient`` training patients, the update of a round must be more than their gradient.
    """

    minimum_patients: int = Field(default=10, ge=1)
    minimum_cell: int = Field(default=5, ge=1)
    epsilon_limit: Positive = 8.0
    delta: Annotated[float, Field(gt=0.0, lt=0.1)] = 1e-5
    dp_required: bool = False
    secure_sum_required: bool = False
    minimum_summed_sites: int = Field(default=3, ge=3)
    tasks: tuple[TaskName, ...] = ("describe", "train", "evaluate", "explain")
    max_rounds: int = Field(default=1000, ge=1)
    max_runs: int = Field(default=10, ge=1)
    max_evaluations: int = Field(default=10, ge=1)
    small_changes: Literal["refuse", "allow"] = "refuse"
    minimum_gradient: int = Field(default=32, ge=1)

    @property
    def rule(self) -> Rule:
        """From how many patients on something may be said of them."""
        return Rule(minimum_patients=self.minimum_patients, minimum_cell=self.minimum_cell)


class Identity(Strict):
    """``key``: the private Ed25519 key with which the site signs, made by itself where none is named. ``roster``: the file
    with the other hospitals' identities; without one, the first that is seen of each is believed."""

    key: str | None = None
    roster: str | None = None


class SiteConfig(Strict):
    """All of ``site.toml``."""

    site: Site
    cohort: Cohort
    images: Images | None = None
    split: Split = Split()
    policy: Policy = Policy()
    identity: Identity = Identity()


def read_site(path: Path) -> SiteConfig:
    """Read ``site.toml``. Only the file itself is checked; ``client.cohort`` checks it against data and protocol.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    return config_file.load(path, SiteConfig)
