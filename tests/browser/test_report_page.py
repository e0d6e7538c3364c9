"""The report in headless Chromium: nothing overflows at three widths or on paper, and dark figures can be read."""

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
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def measure(page: str, tmp_path: Path, width: int, probe: str = PROBE) -> dict:
    file = tmp_path / "probe.html"
    file.write_text(probe % (width, json.dumps(page).replace("</", "<\\/")), encoding="utf-8")
    dom = chromium(tmp_path, "--virtual-time-budget=5000", "--window-size=1400,900", "--dump-dom", file.as_uri())
    found = re.search(r'<pre id="out">(\{.*?\})</pre>', dom)
    assert found, "the page did not load"
    return json.loads(found[1])


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_overflows(page, tmp_path, width):
    measured = measure(page, tmp_path, width)
    assert measured["edge"] <= width
    assert measured["scroll"] == measured["edge"]
    assert measured["wide"] == []
    assert measured["hidden"] == []
    assert measured["cut"] == []
    assert measured["figures"] == page.count("<svg ") >= 25
    assert measured["smallest"] >= 1.0  # pixels a point: lettering of 8.5 points is at least 8.5 pixels high


def test_nothing_is_cut_on_paper(page, tmp_path):
    on_paper = page.replace("@media print", "@media all").replace("@media screen", "@media speech")
    measured = measure(on_paper, tmp_path, 695, PROBE.replace(".scroll, svg, thead", "svg, thead"))  # A4 less its margins
    assert measured["wide"] == []
    assert measured["cut"] == []


def test_prints_to_a_few_pages(page, tmp_path):
    source, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    source.write_text(page, encoding="utf-8")
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={printed}", source.as_uri())
    pdf = printed.read_bytes()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 12 <= pages <= 26
    boxes = [tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]*)\]", pdf)]
    assert boxes and all(box[2:] == pytest.approx((595, 842), abs=1.5) for box in boxes)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_paper(page, theme):
    """WCAG: 4.5 for text, 3 for what figures draw."""
    blocks = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[theme]))
    for name in ("ink", "muted", "link", "local", "central", "federated"):
        for ground in ("paper", "tint", "page"):
            light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= (4.5 if name in {"ink", "muted", "link"} else 3.0), (name, ground)


def test_every_figure_and_table_is_described(page):
    titles = re.findall(
        r"<svg [^>]*aria-labelledby=\"([^\"]+)\"[^>]*><title[^>]*>([^<]+)</title><desc[^>]*>([^<]+)</desc>", page
    )
    assert len(titles) == page.count("<svg ")
    assert page.count("<caption") == page.count("<table") - page.count('class="checklist"')
