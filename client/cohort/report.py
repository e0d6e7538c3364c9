"""The findings of ``consilium-site check``, for people: plain tables, then what calls for attention."""

from collections.abc import Iterator

from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from client.cohort.findings import Findings, ImageFindings, VariableFinding
from shared_model.protocol import StudyProtocol

_LISTED_FILES = 20


def print_report(console: Console, findings: Findings, protocol: StudyProtocol | None, *, site: str) -> None:
    """Write ``findings`` of ``site`` to ``console``."""
    for section in _sections(findings, protocol, site):
        console.print(section, soft_wrap=isinstance(section, Text))


def _sections(findings: Findings, protocol: StudyProtocol | None, site: str) -> Iterator[RenderableType]:
    study = f", study {protocol.study.name}" if protocol else ""
    yield Text(f"Site {site}{study}", style="bold")
    yield _patients(findings)
    if protocol is not None and findings.variables:
        yield _variables(findings, protocol)
    if findings.images is not None:
        yield from _images(findings.images)
    if findings.notices:
        yield Text(f"\nTo know ({len(findings.notices)})", style="bold")
        for notice in findings.notices:
            yield Text(f"- {notice.what}\n    -> {notice.remedy}")
    yield Text("\nThis site can take part." if protocol else "\nThe site file, its paths, columns and labels are in order.")


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
    for name, found in findings.variables.items():
        variable = protocol.variables[name]
        if found.column is None:
            grid.add_row(name, "(not mapped)", "", "100 %", "", "")
            continue
        conversion = _conversion(found, variable.unit)
        values = _spread(found, variable.unit) if variable.kind == "numeric" else _categories(found)
        limits = f"{variable.range[0]:g}..{variable.range[1]:g}" if variable.range else ""
        grid.add_row(name, found.column, conversion, f"{100 * found.missing_share:.0f} %", values, limits)
    return grid


def _conversion(found: VariableFinding, unit: str | None) -> str:
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
        yield Text(f"  and {len(images.unusable) - _LISTED_FILES} more (--json lists all)")


def _grid(title: str, *columns: str) -> Grid:
    grid = Grid(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in columns:
        justify: JustifyMethod = "right" if name in {"patients", "positive", "images", "missing"} else "left"
        grid.add_column(name, justify=justify, overflow="fold")
    return grid
