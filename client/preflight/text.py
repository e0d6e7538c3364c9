"""The findings of ``consilium-site check``, for people: plain tables, then what calls for attention."""

from collections.abc import Iterator

from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from client.cohort.findings import Findings, ImageFindings, OutcomeFinding, VariableFinding
from client.preflight.checks import Preflight, Status, counts_in_words
from shared_model.protocol import StudyProtocol

_LISTED_FILES = 20
_STYLES = {"fail": "bold red", "warn": "yellow", "skip": "dim", "pass": "green"}
_CALLED: dict[Status, str] = {"fail": "failed", "warn": "with warnings", "skip": "skipped", "pass": "passed"}


def print_report(console: Console, result: Preflight, protocol: StudyProtocol | None) -> None:
    """Write what was read, then every check, to ``console``."""
    for section in _sections(result, protocol):
        console.print(section, soft_wrap=isinstance(section, Text))


def _sections(result: Preflight, protocol: StudyProtocol | None) -> Iterator[RenderableType]:
    study = f", study {result.study}" if result.study else ""
    yield Text(f"Site {result.site}{study}", style="bold")
    if (findings := result.findings) is not None:
        yield _patients(findings)
        if protocol is not None and findings.variables:
            yield _variables(findings, protocol)
            yield _by_outcome(findings)
        if findings.images is not None:
            yield from _images(findings.images)
    yield Text("\nChecks", style="bold")
    for check in result.checks:
        yield Text.assemble((f"{check.status:<5}", _STYLES[check.status]), f" {check.title}: {check.found}")
        for problem in check.problems:
            yield Text(f"      - {problem.what}\n        -> {problem.remedy}")
    yield Text(f"\n{verdict(result)}", style="bold")


def verdict(result: Preflight) -> str:
    """The checks in one sentence, and whether the site can take part."""
    counts = counts_in_words({name: result.count(status) for status, name in _CALLED.items() if result.count(status)})
    if not result.ok:
        return f"{counts}. Mend what failed, then check again."
    if result.study is None:
        return f"{counts}. The site file, its paths, columns and labels are in order."
    return f"{counts}. This site can take part."


def _patients(findings: Findings) -> Grid:
    grid = _grid("Patients", "", "patients", "positive")
    grid.add_row("found", str(findings.found), "")
    for reason, count in findings.excluded.items():
        grid.add_row(f"  left out: {reason}", str(count), "")
    grid.add_row("included", str(findings.included), str(sum(counts.positives for counts in findings.parts.values())))
    for part, counts in findings.parts.items():
        grid.add_row(f"  {part}", str(counts.patients), str(counts.positives))
    return grid


def _variables(findings: Findings, protocol: StudyProtocol) -> Grid:
    grid = _grid("Variables, after conversion", "variable", "column", "conversion", "missing", "values", "range")
    mapped = protocol.mapped
    for name, found in findings.variables.items():
        variable = mapped[name]
        if found.column is None:
            grid.add_row(name, "(not mapped)", "", "100 %", "", "")
            continue
        values = _spread(found, variable.unit) if variable.kind == "numeric" else _categories(found)
        limits = f"{variable.range[0]:g}..{variable.range[1]:g}" if variable.range else ""
        grid.add_row(name, found.column, conversion(found, variable.unit), f"{100 * found.missing_share:.0f} %", values, limits)
    return grid


def _by_outcome(findings: Findings) -> Grid:
    """Table 1: values, and what is missing, by outcome."""
    counts = [sum(c.patients - c.positives for c in findings.parts.values()), sum(c.positives for c in findings.parts.values())]
    negative, positive = (f"{outcome} (n = {count})" for outcome, count in zip(("negative", "positive"), counts, strict=True))
    grid = _grid("Variables by outcome: median (quartiles) or share", "variable", negative, positive, "missing", "missing +")
    for name, found in findings.variables.items():
        if found.column is None or not found.by_outcome:
            continue
        groups = [found.by_outcome["negative"], found.by_outcome["positive"]]
        gaps = [f"{group.missing_share:.0%}" for group in groups]
        if groups[0].categories:
            grid.add_row(name, "", "", *gaps)
            for category in groups[0].categories:
                grid.add_row(f"  {category}", *(share_of(group, category) for group in groups), "", "")
        else:
            grid.add_row(name, *(quartiles_of(group) for group in groups), *gaps)
    return grid


def share_of(group: OutcomeFinding, category: str) -> str:
    """How many of the patients with a value have this category, and which share."""
    count, known = group.categories[category], sum(group.categories.values())
    return f"{count} ({count / known:.0%})" if known else "0"


def quartiles_of(group: OutcomeFinding) -> str:
    """Median and quartiles, for a table."""
    if group.quartiles is None:
        return "none"
    low, middle, high = group.quartiles
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def conversion(found: VariableFinding, unit: str | None) -> str:
    """How a column's unit became the study's, for a table; empty where there is none."""
    if unit is None or found.unit is None:
        return ""
    return unit if found.factor == 1.0 and found.unit == unit else f"{found.unit} x {found.factor:.6g} = {unit}"


def _spread(found: VariableFinding, unit: str | None) -> str:
    if found.low is None:
        return "none"
    return f"{found.low:.4g} to {found.high:.4g}, median {found.median:.4g} {unit or ''}".rstrip()


def _categories(found: VariableFinding) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.categories.items())


def _images(images: ImageFindings) -> Iterator[RenderableType]:
    grid = _grid("Images", "", "images")
    grid.add_row("found", str(images.found))
    grid.add_row("  beyond the study's limit for a patient", str(images.beyond_limit))
    grid.add_row("  unusable", str(len(images.unusable)))
    grid.add_row("in use", str(images.used))
    for view, count in images.by_view.items():
        grid.add_row(f"  {view}", str(count))
    for reason, count in images.skipped.items():
        grid.add_row(f"files passed over: {reason}", str(count))
    yield grid
    yield Text(f"Cache of decoded images: {images.cache}")
    for file in images.unusable[:_LISTED_FILES]:
        yield Text(f"  {file.file or '(none)'}: {file.reason}")
    if len(images.unusable) > _LISTED_FILES:
        yield Text(f"  and {len(images.unusable) - _LISTED_FILES} more (--json lists all, as hashes)")


def _grid(title: str, *columns: str) -> Grid:
    grid = Grid(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in columns:
        justify: JustifyMethod = "right" if name in {"patients", "positive", "images", "missing"} else "left"
        grid.add_column(name, justify=justify, overflow="fold")
    return grid
