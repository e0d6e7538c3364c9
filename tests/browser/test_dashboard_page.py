"""The live page in headless Chromium: log in, watch a run change, nothing overflows on a desktop or a phone."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.journal import Journal
from server.records import RoundRecord, SiteFailure, SiteRound
from shared_model.errors import FailureCode
from shared_model.protocol import Federation, Study, StudyProtocol, Training
from shared_model.variables import Variable

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PASSWORD = "correct horse battery"
SITES = ("birch", "University_Health_Network_of_Greater_Toronto_and_the_Peel_Region")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    protocol = StudyProtocol(
        study=Study(name="s", title="A study of some length, as titles are", outcome="o"),
        variables={"age": Variable(kind="numeric", unit="years")},
        network={"kind": "logistic"},  # type: ignore[arg-type]
        training=Training(epochs=1),
        federation=Federation(rounds=9),
    )
    out = tmp_path / "runs" / "night"
    out.mkdir(parents=True)
    with Journal.create(out, protocol, run="r", engine="flower", seed=1, enrolled=SITES, versions={}) as journal:
        site = SiteRound(patients=40, loss=0.6, steps=4, seconds=2.0, update_norm=1.0, tune=None)
        for number in range(1, 5):
            journal.commit_round(RoundRecord(number, dict.fromkeys(SITES, site), 0.6 + 0.01 * number, 3.0, ""), {})
        journal.add_failure(SiteFailure(SITES[1], "train", 4, FailureCode.DEADLINE, "it did not answer before the deadline"))
    return out


@pytest.fixture
def address(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("CONSILIUM_DASHBOARD_PASSWORD", PASSWORD)
    command = [sys.executable, "-m", "server.cli", "dashboard", str(run.parent), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while refused(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_log_in_and_watch(address: str, run: Path, width: int, scheme: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.fill("#password", "not the password")
        page.click("button")
        assert page.get_by_role("alert").inner_text() == "That is not the password."
        page.fill("#password", PASSWORD)
        page.click("button")
        page.click("text=night")
        page.get_by_text("it did not answer before the deadline").first.wait_for()
        with Journal(run) as journal:
            journal.event("warning", text="told while somebody watches")
        page.get_by_text("told while somebody watches").wait_for(timeout=15_000)
        assert page.get_by_role("button", name="Resume").is_visible()
        assert not page.get_by_role("button", name="Stop").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("svg.curve").get_attribute("aria-label")
        assert not errors
        browser.close()


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
