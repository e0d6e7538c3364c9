"""The result of ``consilium-site check`` as one HTML file with nothing to load. It shows patients: it stays at the site."""

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape

from client.cohort import Findings, VariableFinding
from client.preflight.checks import Preflight
from client.preflight.text import conversion, quartiles_of, share_of, verdict
from shared_model.protocol import StudyProtocol

_CALLED = {"fail": "Failed", "warn": "Warning", "skip": "Skipped", "pass": "Passed"}


def render(result: Preflight, protocol: StudyProtocol | None) -> str:
    """The page; ``protocol`` is None where there is no study, or the data could not be read."""
    environment = Environment(
        autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("client.preflight")
    template = environment.from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
    findings = result.findings
    return template.render(
        result=result,
        verdict=verdict(result),
        called=_CALLED,
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        findings=findings,
        variables=_variables(findings, protocol) if findings and protocol else [],
        outcomes=_outcomes(findings) if findings else {},
        sheets=[(sheet.caption, base64.b64encode(sheet.jpeg).decode()) for sheet in result.sheets],
    )


def _outcomes(findings: Findings) -> dict[str, int]:
    positives = sum(counts.positives for counts in findings.parts.values())
    return {"negative": findings.included - positives, "positive": positives}


def _variables(findings: Findings, protocol: StudyProtocol) -> list[dict[str, Any]]:
    """Rows of the table of variables: one for a number, one and its categories for a category."""
    rows, mapped = [], protocol.mapped
    for name, found in findings.variables.items():
        if found.column is None:
            continue
        unit = mapped[name].unit
        row: dict[str, Any] = {"name": name, "column": found.column, "conversion": conversion(found, unit), "unit": unit or ""}
        rows.append(row | _groups(found))
    return rows


def _groups(found: VariableFinding) -> dict[str, Any]:
    groups = [found.by_outcome[outcome] for outcome in ("negative", "positive")]
    return {
        "missing": [f"{group.missing_share:.0%}" for group in groups],
        "values": [] if groups[0].categories else [quartiles_of(group) for group in groups],
        "categories": [(category, [share_of(group, category) for group in groups]) for category in groups[0].categories],
    }
