"""``consilium-site check``: every question to a site's data and machine before a study, each with an answer and a remedy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cohort import Cohort, load_cohort, survey
from client.cohort.load import open_tables
from client.cohort.notices import with_notices
from client.cohort.parallel import Progress
from client.cohort.patients import Patients, select_patients
from client.cohort.pseudonyms import concealed, site_pseudonyms
from client.cohort.tables import Table
from client.preflight.checks import Check, Preflight, Problem, Sheet, Status, skipped
from client.preflight.data import data_checks
from client.preflight.leakage import border_check, column_check, variable_check
from client.preflight.machine import machine_checks, timed_trial
from client.preflight.marks import text_check
from client.preflight.pictures import (
    border_features,
    contact_sheets,
    duplicate_check,
    owned_pictures,
    row_check,
    standardisation_sheets,
)
from client.preflight.redundancy import redundancy_check
from client.site_config import SiteConfig
from shared_model.errors import Fault
from shared_model.inputs import ABSENT, categorical_names, numeric_names
from shared_model.protocol import StudyProtocol

__all__ = ["Check", "Preflight", "Problem", "Sheet", "Status", "concealing", "preflight", "refused"]


def preflight(
    config: SiteConfig,
    protocol: StudyProtocol | None,
    *,
    where: Path,
    deep: bool = False,
    fast: bool = False,
    on_progress: Progress = lambda _doing, _done, _total: None,
) -> Preflight:
    """Make every check of the site ``where`` against ``protocol``, or those that need none.

    ``deep`` also looks for leakage in columns that are not mapped; ``fast`` measures no training. The result names
    files and cells, for a person to mend them; ``concealing`` them, it may be written down.

    Raises:
        ConfigurationError, CohortError: as ``load_cohort``; ``refused`` tells them as checks.
    """
    config_read, table, _ = open_tables(config, protocol, where)
    patients = select_patients(table, config_read, where=str(where))
    if protocol is None:
        findings = survey(config, where=where, on_progress=on_progress)
        checks = [
            *data_checks(findings, config, None, table),
            _repeated_rows(table, config_read, patients),
            *machine_checks(None, None, newest_file=table.path, trial=None),
        ]
        return Preflight(config.site.name, None, tuple(checks), findings)
    cohort = load_cohort(config, protocol, where=where, on_progress=on_progress)
    included = _included(patients, cohort)
    checks = [*data_checks(cohort.findings, config, protocol, table), _repeated_rows(table, config_read, included)]
    labels = cohort.tensors.label.numpy().astype(np.int64)
    variables = _variables(cohort, protocol)
    checks += [variable_check(variables, labels), redundancy_check(variables)]
    if deep:
        cohort_keys = config_read.cohort
        used = {mapping.column for mapping in (*cohort_keys.variables.values(), *cohort_keys.comparators.values())}
        used |= {cohort_keys.label.column, cohort_keys.patient_id, config.split.column or ""}
        checks.append(column_check(table, list(included.rows.values()), labels, used=used, decimal=config.cohort.decimal))
    sheets: list[Sheet] = []
    if protocol.images is not None and len(cohort.tensors.images):
        pictures = owned_pictures(cohort.tensors, cohort.parts)
        checks += [
            duplicate_check(pictures),
            text_check(pictures.grey),
            border_check(border_features(pictures, patients=len(cohort)), labels),
        ]
        sheets = contact_sheets(pictures, cohort.tensors, list(protocol.images.views))
        sheets += standardisation_sheets(cohort.pictures, protocol.images)
    trial = None if fast or not len(cohort.parts["train"]) else timed_trial(cohort, protocol)
    checks += machine_checks(cohort, protocol, newest_file=table.path, trial=trial)
    return Preflight(config.site.name, protocol.study.name, tuple(checks), cohort.findings, tuple(sheets))


def concealing(result: Preflight, config: SiteConfig, protocol: StudyProtocol | None) -> Preflight:
    """``result`` with hashes of the site in place of names of files, and of cells that no code explains."""
    if result.findings is None:
        return result
    pseudonyms = site_pseudonyms(config.site.name)
    findings = with_notices(concealed(result.findings, pseudonyms), config, protocol, concealed=True)
    told = {
        Problem(named.what, named.remedy): Problem(hidden.what, hidden.remedy)
        for named, hidden in zip(result.findings.notices, findings.notices, strict=True)
    }
    checks = [
        replace(check, problems=tuple(told.get(problem, problem) for problem in check.problems)) for check in result.checks
    ]
    return replace(result, checks=tuple(checks), findings=findings)


def refused(faults: tuple[Fault, ...], *, site: str, study: str | None) -> Preflight:
    """What kept the data from being read, as checks that failed; the others could not be made."""
    checks = [
        Check(
            "configuration", f"{fault.where}: {fault.key}" if fault.key else fault.where, "fail", fault.found,
            (Problem(f"expected: {fault.expected}", fault.remedy),),
        )
        for fault in faults
    ]  # fmt: skip
    return Preflight(site, study, (*checks, skipped("rest", "All other checks", "the data could not be read")))


def _included(patients: Patients, cohort: Cohort) -> Patients:
    kept = set(cohort.patients)
    return patients.without({patient: "" for patient in patients.rows if patient not in kept})


def _repeated_rows(table: Table, config: SiteConfig, patients: Patients) -> Check:
    parts = patients.parts(config.split)
    firsts = [members[0] for members in patients.rows.values()]
    columns = {
        name: [cells[row] for row in firsts] for name, cells in table.columns.items() if name != config.cohort.patient_id
    }
    if len(columns) < 3:
        return skipped("rows", "No patient twice", "too few columns to tell patients apart")
    return row_check(columns, [parts[patient] for patient in patients.rows])


def _variables(cohort: Cohort, protocol: StudyProtocol) -> "dict[str, NDArray[np.float64] | list[str]]":
    """The mapped variables as the network sees them: numbers with NaN, categories as text."""
    tensors = cohort.tensors
    columns: dict[str, NDArray[np.float64] | list[str]] = {}
    for place, name in enumerate(numeric_names(protocol)):
        present = tensors.numeric_present[:, place].numpy()
        columns[name] = np.where(present, tensors.numeric[:, place].numpy().astype(np.float64), np.nan)
    for place, name in enumerate(categorical_names(protocol)):
        codes = tensors.categorical[:, place].tolist()
        columns[name] = ["" if code == ABSENT else str(code) for code in codes]
    return {name: columns[name] for name in protocol.variables if cohort.findings.variables[name].column is not None}
