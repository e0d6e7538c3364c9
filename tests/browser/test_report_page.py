"""The report in headless Chromium: nothing overflows at three widths, and it prints."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server.report import render
from server.results import assemble
from tests.fake_run import fake_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# A window is never narrower than about 500 pixels, so the page is measured inside a frame of the width wanted.
PROBE = """<!doctype html><iframe id="frame" style="width:%dpx;height:800px;border:0"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, edge = page.documentElement.clientWidth, wide = [];
  for (const element of page.querySelectorAll("body *")) {
    if (element.closest(".scroll, svg, thead")) continue;
    if (element.getBoundingClientRect().right > edge + 1) wide.push(element.tagName + "." + element.className);
  }
  const hidden = [...page.querySelectorAll("main table.cards")].filter(t => t.scrollWidth > t.parentElement.clientWidth + 1);
  const scaled = [...page.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width);
  const cut = [...page.querySelectorAll("svg")].flatMap(s => [...s.querySelectorAll("text")].filter(t => {
    const inner = t.getBoundingClientRect(), outer = s.getBoundingClientRect();
    return inner.right > outer.right + 2 || inner.left < outer.left - 2 || inner.bottom > outer.bottom + 2;
  }).map(t => t.textContent));
  document.getElementById("out").textContent = JSON.stringify({
    cut, edge, wide, scroll: page.documentElement.scrollWidth, hidden: hidden.map(t => t.textContent.slice(0, 40)),
    smallest: Math.min(...scaled), figures: scaled.length });
};
frame.srcdoc = %s;
</script>"""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")]


@pytest.fixture(scope="module")
def page():
    document = json.dumps(assemble(*fake_run()))
    longest = "University_Health_Network_of_Greater_Toronto_and_the_Peel_Region"  # 64 letters, as many as a name may have
    return render(json.loads(document.replace("University_Health_Network", longest)))


def chromium(tmp_path: Path, *arguments: str) -> str:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("width", [390, 800, 900, 1280])
def test_nothing_overflows(page, tmp_path, width):
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE % (width, json.dumps(page).replace("</", "<\\/")), encoding="utf-8")
    dom = chromium(tmp_path, "--virtual-time-budget=5000", "--window-size=1400,900", "--dump-dom", probe.as_uri())
    found = re.search(r'<pre id="out">(\{.*?\})</pre>', dom)
    assert found, "the page did not load"
    measured = json.loads(found[1])
    assert measured["edge"] <= width
    assert measured["scroll"] == measured["edge"]
    assert measured["wide"] == []
    assert measured["hidden"] == []
    assert measured["cut"] == []
    assert measured["figures"] == 8
    assert measured["smallest"] >= 1.0  # pixels a point: lettering of 8.5 points is at least 8.5 pixels high


def test_prints_to_a_few_pages(page, tmp_path):
    source, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    source.write_text(page, encoding="utf-8")
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={printed}", source.as_uri())
    pdf = printed.read_bytes()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 4 <= pages <= 8
    boxes = [tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]*)\]", pdf)]
    assert boxes and all(box[2:] == pytest.approx((595, 842), abs=1.5) for box in boxes)
