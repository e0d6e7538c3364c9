"""From rows to patients: who is in, with which outcome, in which part."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from client.cohort.split import PARTS, split_by_share
from client.cohort.tables import Table, counted, listed, row_filter
from client.site_config import SiteConfig, Split, canonical_code
from shared_model.config_file import did_you_mean
from shared_model.errors import CohortError, Fault
from shared_model.messages import Part

_SHOWN_CODES = 10

NO_LABEL = "no label"
IGNORED_LABEL = "label set aside"
NO_PART = "in no part of the split"


@dataclass(frozen=True)
class Patients:
    """Included patients, ordered by identifier as text, and what became of the others.

    ``rows`` are each patient's rows of the cohort table; ``assigned`` the part that the split column gives each, None
    without such a column. ``found`` patients passed the row filter; ``known`` holds all identifiers of the table's
    ``column`` of identifiers.
    """

    rows: Mapping[str, tuple[int, ...]]
    labels: Mapping[str, int]
    assigned: Mapping[str, Part] | None
    found: int
    known: frozenset[str]
    excluded: Mapping[str, int]
    rows_without_id: int
    ignored_labels: Mapping[str, int]
    unlisted_parts: Mapping[str, int]
    column: str

    def without(self, left_out: Mapping[str, str]) -> Self:
        """The same, less the patients of ``left_out``, which maps each to the reason."""
        return replace(
            self,
            rows={patient: rows for patient, rows in self.rows.items() if patient not in left_out},
            labels={patient: label for patient, label in self.labels.items() if patient not in left_out},
            excluded=dict(Counter(self.excluded) + Counter(left_out.values())),
        )

    def keys(self, table: Table, column: str | None, *, where: str) -> dict[str, str]:
        """Every identifier of the cohort ``table``, by what ``column`` holds beside it (None: by itself).

        Raises:
            CohortError: a cell of ``column`` stands beside several identifiers.
        """
        if column is None:
            return {patient: patient for patient in self.known if patient}
        own: dict[str, set[str]] = {}
        for key, patient in zip(table.column(column), table.column(self.column), strict=True):
            if key and patient:
                own.setdefault(key, set()).add(patient)
        if shared := sum(len(patients) > 1 for patients in own.values()):
            found, remedy = f"{shared} values of column {column!r} stand beside several patients", "mend these rows"
            raise CohortError([Fault(where, "images.patient_column", found, "one patient for each value", remedy)])
        return {key: patients.pop() for key, patients in own.items()}

    def parts(self, split: Split) -> dict[str, Part]:
        """The part of each included patient."""
        if self.assigned is None:
            return split_by_share(list(self.labels), list(self.labels.values()), split)
        return {patient: self.assigned[patient] for patient in self.rows}


def select_patients(table: Table, config: SiteConfig, *, where: str) -> Patients:
    """The labelled patients of ``table``.

    Raises:
        CohortError: nobody is left, or a label, a code or a part is not what the configuration ``where`` says.
    """
    rows, nameless = _rows_by_patient(table, config, where)
    faults: list[Fault] = []
    labels, ignored, unlabelled = _labels(table, rows, config, where, faults)
    assigned, unlisted = _assigned_parts(table, {patient: rows[patient] for patient in labels}, config, where, faults)
    if faults:
        raise CohortError(faults)
    patients = Patients(
        rows={patient: tuple(rows[patient]) for patient in sorted(labels)},
        labels={patient: labels[patient] for patient in sorted(labels)},
        assigned=assigned,
        found=len(rows),
        known=frozenset(table.column(config.cohort.patient_id)),
        excluded=dict(+Counter({NO_LABEL: unlabelled, IGNORED_LABEL: sum(ignored.values())})),
        rows_without_id=nameless,
        ignored_labels=ignored,
        unlisted_parts=unlisted,
        column=config.cohort.patient_id,
    )
    if assigned is None:
        return patients
    if not assigned:
        raise CohortError([_nobody_in_a_part(config, unlisted, where)])
    return patients.without({patient: NO_PART for patient in labels if patient not in assigned})


def select_one(table: Table, config: SiteConfig, patient: str, *, where: str) -> Patients:
    """Patient ``patient`` alone, whether or not a label is known.

    Raises:
        CohortError: there are no rows of that patient.
    """
    rows, _ = _rows_by_patient(table, config, where)
    own = next((name for name in rows if canonical_code(name) == canonical_code(patient)), None)
    if own is None:
        found = f"{patient!r}, and no row of {table.path.name} has it"
        remedy = did_you_mean(patient, list(rows), otherwise="give an identifier as the table has it")
        raise CohortError([Fault("--patient", "", found, f"an identifier of column {config.cohort.patient_id!r}", remedy)])
    return Patients(
        rows={own: tuple(rows[own])},
        labels={own: 0},
        assigned={own: "test"},
        found=1,
        known=frozenset(table.column(config.cohort.patient_id)),
        excluded={},
        rows_without_id=0,
        ignored_labels={},
        unlisted_parts={},
        column=config.cohort.patient_id,
    )


def _rows_by_patient(table: Table, config: SiteConfig, where: str) -> tuple[dict[str, list[int]], int]:
    cohort = config.cohort
    kept = row_filter(table, cohort.where, cohort)
    if not kept:
        raise CohortError([_filtered_away(table, config, where)])
    identifiers = table.column(cohort.patient_id)
    rows: dict[str, list[int]] = {}
    for row in kept:
        if identifiers[row]:
            rows.setdefault(identifiers[row], []).append(row)
    if not rows:
        found = f"column {cohort.patient_id!r} is empty in all {len(kept)} rows"
        remedy = 'name the column of identifiers, or "#row" if there is none'
        raise CohortError([Fault(where, "cohort.patient_id", found, "an identifier in each row", remedy)])
    return rows, len(kept) - sum(map(len, rows.values()))


def _filtered_away(table: Table, config: SiteConfig, where: str) -> Fault:
    conditions = config.cohort.where
    held = "; ".join(f"{column} holds {counted(table.column(column))}" for column in conditions)
    remedy = "use values that the columns hold"
    for column, condition in conditions.items():
        if isinstance(condition, str) and condition not in table.column(column):
            remedy = did_you_mean(condition, table.column(column), otherwise=remedy)
    expected = f"at least one of the {table.rows} rows of {table.path.name} to pass"
    return Fault(where, "cohort.where", f"no row passes the filter: {held}", expected, remedy)


def _labels(
    table: Table, rows: Mapping[str, list[int]], config: SiteConfig, where: str, faults: list[Fault]
) -> tuple[dict[str, int], dict[str, int], int]:
    """Outcome of each labelled patient, ignored codes with counts of patients, and the number without a label."""
    label = config.cohort.label
    cells = table.column(label.column)
    outcomes: dict[str, int | None] = {canonical_code(code): 1 for code in label.positive}
    outcomes |= {canonical_code(code): 0 for code in label.negative}
    outcomes |= {canonical_code(code): None for code in label.ignore}
    held = [cells[row] for members in rows.values() for row in members]
    strange = [cell for cell in held if cell and table.known_as(label.column, cell, outcomes) not in outcomes]
    if strange:
        found = f"column {label.column!r} also holds {counted(strange)}"
        expected = "each code in label.positive, label.negative or label.ignore"
        shown = listed((_toml_code(code) for code in dict.fromkeys(strange)), limit=_SHOWN_CODES)
        remedy = f"add them to one of the three; to leave these patients out: label.ignore = [{shown}]"
        faults.append(Fault(where, "cohort.label", found, expected, remedy))
        return {}, {}, 0

    labels, ignored, unlabelled, conflicts = {}, Counter[str](), 0, []
    for patient, members in rows.items():
        codes = {table.known_as(label.column, cells[row], outcomes) for row in members if cells[row]}
        found_outcomes = {outcomes[code] for code in codes}
        if len(found_outcomes) > 1:
            conflicts.append(patient)
        elif not codes:
            unlabelled += 1
        elif (outcome := found_outcomes.pop()) is None:
            ignored[min(codes)] += 1
        else:
            labels[patient] = outcome
    if conflicts:
        faults.append(_conflicting_labels(conflicts, label.column, table))
    elif not labels:
        found = f"no labelled patient: column {label.column!r} holds {counted(held)}"
        remedy = "mend the column, its codes, or the row filter"
        faults.append(Fault(where, "cohort.label", found, "codes of label.positive and label.negative", remedy))
    return labels, dict(ignored), unlabelled


def _conflicting_labels(patients: list[str], column: str, table: Table) -> Fault:
    found = f"patients whose rows have different labels: {listed(sorted(patients), limit=10)}"
    remedy = "mend these rows; if an identifier covers several persons, name another column as patient_id"
    return Fault(str(table.path), column, found, "one label for a patient", remedy)


def _assigned_parts(
    table: Table, rows: Mapping[str, list[int]], config: SiteConfig, where: str, faults: list[Fault]
) -> tuple[dict[str, Part] | None, dict[str, int]]:
    """Part of each patient by the split column, and the codes without a part, with counts of patients."""
    column = config.split.column
    if column is None:
        return None, {}
    cells = table.column(column)
    known = {canonical_code(code): part for code, part in config.split.codes.items()}
    parts: dict[str, Part] = {}
    unlisted, torn = Counter[str](), []
    for patient, members in rows.items():
        codes = {table.known_as(column, cells[row], known) for row in members}
        found = {known[code] for code in codes if code in known}
        if len(found) > 1:
            torn.append(f"{patient} ({' and '.join(part for part in PARTS if part in found)})")
        elif found:
            parts[patient] = found.pop()
        else:
            unlisted[min(codes)] += 1
    if torn:
        found_text = f"patients in two parts: {listed(sorted(torn), limit=10)}"
        remedy = "give all rows of a patient the same part, else the test is not of unseen patients"
        faults.append(Fault(where, f"split.column = {column!r}", found_text, "each patient in one part", remedy))
    return parts, dict(unlisted)


def _nobody_in_a_part(config: SiteConfig, unlisted: Mapping[str, int], where: str) -> Fault:
    held = ", ".join(f'"{code}" ({count})' if code else f"empty ({count})" for code, count in unlisted.items())
    found = f"no patient is in a part: column {config.split.column!r} holds {held}"
    return Fault(where, "split.codes", found, f"codes {listed(config.split.codes)}", "map the column's codes in split.codes")


def _toml_code(code: str) -> str:
    canonical = canonical_code(code)
    return canonical if canonical.lstrip("-").isdigit() else f'"{code}"'
