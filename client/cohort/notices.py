"""What the owner of the data should know although nothing is broken, each with what to do."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from client.cohort.findings import Findings, ImageFindings, Notice, VariableFinding
from client.cohort.images import remedies
from client.cohort.units import likelier_unit
from client.site_config import SiteConfig
from shared_model.protocol import StudyProtocol
from shared_model.variables import Variable

_MOSTLY_MISSING = 0.5
_MISSING_APART = 0.1  # difference of two shares
_STANDARD_ERRORS = 3.0
_ON_SCREEN = " (hashes stand for the codes; the report on the screen of consilium-site check shows them)"


def with_notices(
    findings: Findings, config: SiteConfig, protocol: StudyProtocol | None, *, concealed: bool = False
) -> Findings:
    """``findings`` with everything in them that calls for attention said in words. ``concealed``: cells in them are hashes."""
    noted = [*_of_patients(findings, config), *_of_parts(findings)]
    if protocol is not None:
        noted += _of_variables(findings, protocol, concealed=concealed)
    if findings.images is not None:
        noted += _of_images(findings.images, findings.included)
    elif protocol is not None and (protocol.images is None) != (config.images is None):
        noted.append(_images_on_one_side(protocol))
    return replace(findings, notices=tuple(noted))


def _of_patients(findings: Findings, config: SiteConfig) -> Iterator[Notice]:
    if findings.rows_without_id:
        what = f"rows without a patient identifier, left out: {findings.rows_without_id}"
        yield Notice(what, "fill them in, if wanted", "patients")
    if findings.ignored_labels:
        what = f"labels set aside by label.ignore: {_counts(findings.ignored_labels)}"
        yield Notice(what, "nothing, if this is meant; otherwise move them to label.positive or label.negative", "labels")
    if findings.unlisted_parts:
        what = f"patients with these codes are in no part and are left out: {_counts(findings.unlisted_parts)}"
        yield Notice(what, "map the codes in split.codes, if wanted", "parts")
    if findings.included < config.policy.minimum_patients:
        what = f"{findings.included} patients are fewer than policy.minimum_patients = {config.policy.minimum_patients}"
        remedy = "the site will decline every request; lower the minimum if your institution agrees"
        yield Notice(what, remedy, "patients")


def _of_parts(findings: Findings) -> Iterator[Notice]:
    for part, counts in findings.parts.items():
        if not counts.patients:
            what = f"no patient in part {part!r}"
            yield Notice(what, "nothing, if this is meant; otherwise change [split]", "parts")
        elif counts.positives in {0, counts.patients}:
            outcome = "negative" if not counts.positives else "positive"
            consequence = "the site cannot be judged" if part == "test" else "fewer conclusions from this part"
            yield Notice(f"all {counts.patients} patients of part {part!r} are {outcome}", f"expect {consequence}", "parts")


def _of_variables(findings: Findings, protocol: StudyProtocol, *, concealed: bool) -> Iterator[Notice]:
    for section, wanted in (("variables", protocol.variables), ("comparators", protocol.ratings)):
        for name, variable in wanted.items():
            yield from _of_variable(f"{section}.{name}", findings.variables[name], variable, concealed=concealed)


def _of_variable(key: str, variable: VariableFinding, wanted: Variable, *, concealed: bool) -> Iterator[Notice]:
    name = key.partition(".")[2]

    def example_of(cells: Mapping[str, int]) -> str:
        return "CODE" if concealed else next(iter(cells))

    hint = _ON_SCREEN if concealed else ""
    if variable.column is None:
        what = f"{name}: not mapped, missing for every patient"
        yield Notice(what, f"map it in [cohort.{key}] if you have it", "mapping")
        return
    if variable.unmapped:
        example = example_of(variable.unmapped)
        what = f"{name}: codes that are not mapped became missing: {_counts(variable.unmapped)}"
        remedy = f'add them to codes, e.g. codes = {{ "{example}" = ... }}, or to missing = ["{example}"] if they mean missing'
        yield Notice(what, remedy + hint, "mapping")
    if variable.no_number:
        example = example_of(variable.no_number)
        what = f"{name}: cells that are no number became missing: {_counts(variable.no_number)}"
        remedy = f'add missing = ["{example}"] if it means missing, or codes = {{ "{example}" = <number> }}'
        yield Notice(what, f"{remedy}; see also decimal{hint}", "mapping")
    if variable.out_of_range:
        what = f"{name}: values outside the plausible range became missing: {variable.out_of_range}"
        better = f'; more would be plausible with unit = "{variable.better_unit}"' if variable.better_unit else ""
        yield Notice(what, f"check these values, and the unit, in the source{better}", "ranges")
    if unit := likelier_unit(name, variable, wanted):
        what = f"{name}: median {variable.median:.3g} {wanted.unit}: the column looks like {unit}, not {variable.unit}"
        yield Notice(what, f'compare some patients with the source; if so, set unit = "{unit}"', "units")
    if variable.missing_share > _MOSTLY_MISSING:
        what = f"{name}: missing for {variable.missing} of {variable.patients} patients"
        yield Notice(what, "nothing, if the site did not measure it; otherwise check the column", "missing")
    yield from _missing_by_outcome(name, variable)


def _missing_by_outcome(name: str, variable: VariableFinding) -> Iterator[Notice]:
    """Whether a value is there should not tell the outcome: the network would learn who was examined, not what was found."""
    groups = [variable.by_outcome.get(outcome) for outcome in ("negative", "positive")]
    negative, positive = groups
    if negative is None or positive is None or not negative.patients or not positive.patients:
        return
    apart = abs(negative.missing_share - positive.missing_share)
    pooled = variable.missing_share
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / negative.patients + 1.0 / positive.patients))
    if apart > _MISSING_APART and apart > _STANDARD_ERRORS * error:
        what = (
            f"{name}: missing in {positive.missing_share:.0%} of positive and {negative.missing_share:.0%} of negative patients"
        )
        yield Notice(what, "was it measured because of the outcome? then leave it out", "missing")


def _of_images(images: ImageFindings, patients: int) -> Iterator[Notice]:
    if images.unusable:
        reasons = Counter(file.reason for file in images.unusable)
        counted = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        yield Notice(f"unusable images are left out: {counted}", remedies(reasons))
    if images.unmapped_views:
        what = f"images of views that are not mapped are left out: {_counts(images.unmapped_views)}"
        yield Notice(what, "map them in images.view.codes, if the study has such a view")
    if images.of_nobody:
        what = f"pictures whose patient is not in the cohort table: {images.of_nobody}"
        yield Notice(what, "nothing, if other patients are meant; otherwise compare the identifiers")
    if images.patients_without:
        yield Notice(f"{images.patients_without} of {patients} patients have no usable image", "nothing, if none was taken")
    if images.unscaled:
        what = f"images of unknown physical scale, fitted to the size instead: {images.unscaled} of {images.used}"
        yield Notice(what, "set images.mm_per_pixel to the size of a pixel, or to its column, if you know it")
    if images.cache.startswith("not kept"):
        yield Notice(f"decoded images were {images.cache}", "set CONSILIUM_CACHE to a folder with space, for faster starts")


def _images_on_one_side(protocol: StudyProtocol) -> Notice:
    if protocol.images is None:
        return Notice("the study uses no images; those of this site are left alone", "nothing")
    return Notice("the study uses images; this site maps none", "add [images] if you have them")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f'"{code}" ({count})' if code else f"empty ({count})" for code, count in counts.items())
