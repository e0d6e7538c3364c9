"""Checks of what was read: table, labels, parts, mapping, units, ranges, missing values, pictures."""

from collections.abc import Iterator

from client.cohort import Findings, ImageFindings
from client.cohort.findings import Topic
from client.cohort.tables import Table
from client.preflight.checks import Check, Problem, check_of, skipped
from client.site_config import SiteConfig
from shared_model.protocol import StudyProtocol


def data_checks(findings: Findings, config: SiteConfig, protocol: StudyProtocol | None, table: Table) -> Iterator[Check]:
    """One check for each topic of ``findings``; its notices are the problems."""

    def noted(topic: Topic) -> list[Problem]:
        return [Problem(notice.what, notice.remedy) for notice in findings.notices if notice.topic == topic]

    yield check_of("table", "Table readable", f"{table.rows} rows, {len(table.columns)} columns in {table.path.name}")
    yield _patients(findings, config, noted("patients"))
    yield _labels(findings, noted("labels"))
    yield _prevalence(findings, protocol)
    parts = "; ".join(f"{part} {counts.patients} ({counts.positives} positive)" for part, counts in findings.parts.items())
    yield check_of("parts", "Outcomes in each part", parts, warnings=noted("parts"))
    if protocol is None:
        return
    mapped = [name for name, variable in findings.variables.items() if variable.column is not None]
    wanted = "variables and comparators" if protocol.ratings else "variables"
    found = f"{len(mapped)} of {len(findings.variables)} {wanted} of the study are mapped"
    yield check_of("mapping", "Variables and codes", found, warnings=noted("mapping"))
    units = [variable for variable in findings.variables.values() if variable.unit is not None]
    yield check_of("units", "Units", f"columns with a unit: {len(units)}", warnings=noted("units"))
    implausible = sum(variable.out_of_range for variable in findings.variables.values())
    yield check_of("ranges", "Plausible values", f"{implausible} values outside the study's ranges", warnings=noted("ranges"))
    shares = [findings.variables[name].missing_share for name in mapped]
    found = f"{sum(shares) / len(shares):.0%} of values missing among mapped variables" if shares else "no mapped variable"
    yield check_of("missing", "Missing values", found, warnings=noted("missing"))
    yield from _images(findings.images, findings, noted("images"))


def _patients(findings: Findings, config: SiteConfig, notes: list[Problem]) -> Check:
    found = f"{findings.included} of {findings.found} patients included"
    if findings.included < config.policy.minimum_patients:
        return check_of("patients", "Enough patients", found, failures=notes)
    return check_of("patients", "Enough patients", found, warnings=notes)


def _labels(findings: Findings, notes: list[Problem]) -> Check:
    positives = sum(counts.positives for counts in findings.parts.values())
    found = f"{positives} positive, {findings.included - positives} negative"
    if positives in {0, findings.included}:
        one = Problem(
            "all patients have the same outcome", "check label.positive and label.negative; nothing can be learned here"
        )
        return check_of("labels", "Labels", found, failures=[one], warnings=notes)
    return check_of("labels", "Labels", found, warnings=notes)


def _prevalence(findings: Findings, protocol: StudyProtocol | None) -> Check:
    title = "Prevalence as the study expects"
    if protocol is None or protocol.study.prevalence is None:
        return skipped("prevalence", title, "the study states no expectation (study.prevalence)")
    low, high = protocol.study.prevalence
    share = sum(counts.positives for counts in findings.parts.values()) / findings.included
    found = f"{share:.0%} positive; the study expects {low:.0%} to {high:.0%}"
    if low <= share <= high:
        return check_of("prevalence", title, found)
    turned = low <= 1.0 - share <= high
    remedy = "are label.positive and label.negative swapped?" if turned else "check the label's codes and the row filter"
    return check_of("prevalence", title, found, warnings=[Problem(f"{share:.0%} positive is unexpected", remedy)])


def _images(images: ImageFindings | None, findings: Findings, notes: list[Problem]) -> Iterator[Check]:
    if images is None:
        if notes:
            yield check_of("images", "Images", "none mapped", warnings=notes)
        return
    count, mean = findings.included, images.used / max(1, findings.included)
    found = f"{images.used} in use, {mean:.1f} a patient; {images.patients_without} of {count} patients have none"
    yield check_of("images", "Images of each patient", found, warnings=[note for note in notes if "unusable" not in note.what])
    unusable = [note for note in notes if "unusable" in note.what]
    yield check_of("files", "Files readable", f"{len(images.unusable)} unusable", warnings=unusable)
