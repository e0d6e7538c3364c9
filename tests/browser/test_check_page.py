"""The page of ``consilium-site check`` in headless Chromium: nothing overflows, and it prints."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from client.cohort.findings import Findings, ImageFindings, OutcomeCounts, OutcomeFinding, UnusableFile, VariableFinding
from client.preflight import Check, Preflight, Problem, Sheet
from client.preflight.page import render
from shared_model import config_file
from shared_model.protocol import StudyProtocol

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PROBE = """<!doctype html><iframe id="frame" style="width:%dpx;height:800px;border:0"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, edge = page.documentElement.clientWidth, wide = [];
  for (const element of page.querySelectorAll("body *")) {
    if (!element.closest(".scroll") && element.getBoundingClientRect().right > edge + 1) wide.push(element.tagName);
  }
  const badges = [...page.querySelectorAll(".badge")].map(badge => badge.textContent);
  document.getElementById("out").textContent = JSON.stringify({ wide, scroll: page.documentElement.scrollWidth, edge, badges });
};
frame.srcdoc = %s;
</script>"""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")]


@pytest.fixture(scope="module")
def page() -> str:
    longest = "a_column_name_that_goes_on_and_on_without_a_single_blank_" * 2
    study = {
        "study": {"name": "toy", "title": "Toy", "outcome": "o"},
        "variables": {
            "size": {"kind": "numeric", "unit": "mm"},
            "sex": {"kind": "categorical", "categories": ["female", "male"]},
        },
        "network": {"kind": "clinical_only"},
        "training": {"epochs": 1},
        "federation": {"rounds": 1},
    }
    group, sexes = OutcomeFinding(20, 1, (1.0, 2.0, 3.0)), OutcomeFinding(20, 0, categories={"female": 12, "male": 8})
    findings = Findings(
        found=42,
        included=40,
        excluded={"no label": 2},
        rows_without_id=0,
        ignored_labels={},
        unlisted_parts={},
        parts={"train": OutcomeCounts(30, 15), "tune": OutcomeCounts(5, 3), "test": OutcomeCounts(5, 2)},
        variables={
            "size": VariableFinding(longest, "cm", 10.0, 40, 2, by_outcome={"negative": group, "positive": group}),
            "sex": VariableFinding("sex", by_outcome={"negative": sexes, "positive": sexes}),
        },
        images=ImageFindings(50, 48, {"bmode": 48}, 0, {}, 0, (UnusableFile(f"{longest}.png", "damaged"),), 1, 0, "built"),
    )
    problem = Problem(f"codes that are not mapped: {longest}", f"add them: {longest}")
    checks = [Check(status, f"Title {longest}", status, longest, (problem,)) for status in ("fail", "warn", "skip", "pass")]
    protocol = config_file.validate(study, StudyProtocol, where="study.toml")
    return render(Preflight("a" * 64, "toy", tuple(checks), findings, (Sheet("bmode", b"no picture"),)), protocol)


def chromium(tmp_path: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_and_the_worst_comes_first(page, tmp_path, width):
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE % (width, json.dumps(page).replace("</", "<\\/")), encoding="utf-8")
    output = chromium(tmp_path, "--virtual-time-budget=3000", "--dump-dom", probe.as_uri())
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', output, flags=re.S)[1])
    assert found["wide"] == []
    assert found["scroll"] <= found["edge"]
    assert found["badges"] == ["Failed", "Warning", "Skipped", "Passed"]


def test_it_prints(page, tmp_path):
    source, target = tmp_path / "check.html", tmp_path / "check.pdf"
    source.write_text(page, encoding="utf-8")
    chromium(tmp_path, f"--print-to-pdf={target}", source.as_uri())
    assert target.read_bytes().startswith(b"%PDF")
