"""The report: complete, self-contained, and readable for every state a run can be in."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from client.tasks.scoring import performance
from server.records import Traffic
from server.report import draw_figures, render, wording
from server.report.prose.checklists import checklists
from server.report.prose.limits import limits
from server.report.prose.methods import methods
from server.report.prose.model_card import model_card
from server.results import assemble, write_results
from shared_model.messages import EvaluateReply
from shared_model.protocol import ClientRule, Evaluation, Federation, Network, Training
from tests.fake_run import PROTOCOL, SILENT, fake_run

VOID = {"meta", "wbr", "br", "img", "link", "hr", "input"}


class Outline(HTMLParser):
    """Tags, ids, texts, and whether everything that opens also closes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.references, self.words, self.unclosed = [], [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.references += [part for key, value in attrs if key == "aria-labelledby" for part in value.split()]
        self.references += [value[1:] for key, value in attrs if key.endswith("href") and value.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def document():
    return assemble(*fake_run())


@pytest.fixture(scope="module")
def page(document):
    return render(document)


def test_is_well_formed_and_labelled(page):
    outline = Outline(page)
    assert outline.unclosed == outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)
    assert page.count("<svg ") == page.count('role="img"') == page.count("<desc ")


def test_needs_neither_network_nor_script(page):
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert not re.findall(r"""src="|href="(?!#|figures/|tables/|\w+\.(?:md|csv|json)")|url\((?!#)|@import""", page)


def test_names_every_site_with_its_reason(page):
    text = Outline(page).text
    assert "Johns_Hopkins (no events)" in text
    assert "MD_Anderson (no test patients)" in text
    assert f"{SILENT} (no answer that counts: unreachable)" in text
    assert "TCGA_other_pooled missed rounds 2–3" in text
    assert "deadline: no reply within 3600 s" in text
    assert "not finite: the update holds NaN" in text


def test_shows_the_numbers_of_the_document(document, page):
    text = Outline(page).text
    for block in (document["pooled"], document["sites"]["Iran_Hamadan_UCI"], document["central"]):
        auc = block["metrics"]["auc"]
        assert f"{auc['value']:.2f} {auc['low']:.2f} to {auc['high']:.2f}" in text
    assert document["study"]["protocol_sha256"] in text
    assert "tested: after round 9" in text
    assert "183.0 MB" in text
    assert "missing 100%" in text


def test_says_when_the_data_are_synthetic(document, page):
    assert "Synthetic data." in page
    real = {**document, "study": {**document["study"], "synthetic": False}}
    assert "Synthetic data." not in render(real, {})


def test_does_not_run_what_a_title_holds(document):
    hostile = {**document, "study": {**document["study"], "title": "<script>alert(1)</script>", "outcome": 'a "b" & <c>'}}
    page = render(hostile, {})
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_has_colours_that_follow_the_theme(page):
    svg = page[page.index("<svg ") :]
    assert "var(--federated)" in svg
    assert not re.findall(r"(?:fill|stroke): #(?!0{6}|f{6})", svg)


def one_site(record):
    scores, labels = np.array([0.1, 0.9, 0.4, 0.7]), np.array([0.0, 1.0, 0.0, 1.0])
    reply = EvaluateReply("A", "t", {"test": performance(scores, labels, evaluation=PROTOCOL.evaluation)}, {}, 0.1)
    return replace(record, enrolled=("A",), descriptions={}, evaluations={"A": reply}, rounds=(), failures=(), phases={})


STATES = {
    "no baselines": lambda record: record,
    "nothing at all": lambda record: replace(
        record, descriptions={}, rounds=(), evaluations={}, failures=(), phases={}, finished=None, traffic=Traffic()
    ),
    "no evaluation": lambda record: replace(record, evaluations={}, finished=None),
    "one round": lambda record: replace(record, rounds=record.rounds[:1], best_round=1),
    "no selection": lambda record: replace(record, rounds=tuple(replace(row, selection=None) for row in record.rounds)),
    "no site in a round": lambda record: replace(record, rounds=(replace(record.rounds[0], sites={}),)),
    "perfect at one site": one_site,
    "many rounds": lambda record: replace(
        record, rounds=tuple(replace(record.rounds[n % 12], round=n + 1) for n in range(300)), failures=()
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_renders_every_state_of_a_run(state):
    document = assemble(STATES[state](fake_run()[0]))
    assert all(drawing.description for drawing in draw_figures(document).values())
    outline = Outline(render(document, {}))  # turning figures into SVG is what takes the time of a report
    assert outline.unclosed == outline.open == []
    assert not re.search(r"\b(None|nan|Undefined)\b", outline.text)
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)


def test_personal_models_and_many_sites_are_drawn():
    record, _ = fake_run()
    replies = {
        f"Hospital_{n:02d}": replace(reply, site=f"Hospital_{n:02d}", personal=dict(reply.parts))
        for n, reply in enumerate(list(record.evaluations.values()) * 4)
    }
    rows = tuple(replace(row, sites={name: next(iter(row.sites.values())) for name in replies}) for row in record.rounds)
    document = assemble(replace(record, enrolled=tuple(replies), evaluations=replies, rounds=rows, descriptions={}))
    figures = draw_figures(document)
    assert "federated, personalised" in figures["comparison"].svg
    assert "Hospital_23" in figures["convergence"].svg
    assert render(document, {})


def test_figures_are_files_of_their_own_and_the_same_each_time(document):
    figures = draw_figures(document)
    families = {"flow", "roc_all_sites", "roc_Iran_Hamadan_UCI", "calibration_all_sites", "decision_all_sites", "forest_auc"}
    assert families | {"recalibration", "subgroups", "comparison", "convergence", "participation", "missingness"} <= set(
        figures
    )
    assert "roc_Johns_Hopkins" not in figures
    for name in ("flow", "calibration_Iran_Hamadan_UCI", "forest_auc"):
        svg = figures[name].svg
        assert ET.fromstring(svg).find("{http://www.w3.org/2000/svg}title").text, name
        assert "var(--" not in svg
        assert figures[name].pdf.startswith(b"%PDF")
    again = draw_figures(document)["forest_auc"]
    assert (again.svg, again.pdf) == (figures["forest_auc"].svg, figures["forest_auc"].pdf)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3, 7], "1–3, 7"), ([5, 3, 3, 1], "1, 3, 5"), (range(1, 301), "1–300")]
)
def test_ranges(numbers, text):
    assert wording.ranges(numbers) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (281, "4 min 41 s"), (7500, "2 h 5 min")])
def test_duration(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (183_000_000, "183.0 MB"), (2e12, "2000.0 GB")])
def test_size(count, text):
    assert wording.size(count) == text


def test_verdict_on_calibration_follows_the_interval(document):
    def verdict(low, value, high):
        ratio = {"value": value, "low": low, "high": high, "method": ""}
        pooled = {**document["pooled"], "metrics": {**document["pooled"]["metrics"], "oe_ratio": ratio}}
        return next(line for line in wording.summary({**document, "pooled": pooled}) if "observed/expected" in line)

    assert "no sign" in verdict(0.9, 1.0, 1.1)
    assert "too few events" in verdict(1.1, 1.3, 1.6)
    assert "too many events" in verdict(0.5, 0.7, 0.9)


def test_methods_follow_the_protocol(document):
    text = " ".join(part.text for part in methods(document))
    for words in (
        "lateral lymph node metastasis (N1b)",
        "AdamW",
        "12 rounds of at most 12",
        "tumour size (mm; logarithm)",
        "FedAvg",
    ):
        assert words in text
    protocol = PROTOCOL.model_copy(
        update={
            "federation": Federation(rounds=3, client_rule=ClientRule(kind="fedprox", strength=0.1), personal=("head",)),
            "training": Training(steps=7, optimizer="sgd", momentum=0.9, class_weighting="balanced"),
            "images": None,
            "network": Network(kind="logistic"),
            "evaluation": Evaluation(selection="last"),
        }
    )
    changed = " ".join(part.text for part in methods({**document, "protocol": protocol.model_dump(mode="json")}))
    for words in (
        "FedProx",
        "μ = 0.1",
        "FedPer",
        "seven steps",
        "momentum 0.9",
        "weighted to count equally",
        "logistic regression",
    ):
        assert words in changed and words not in text.replace("a logistic regression", "")
    assert "ultrasound picture" not in changed


def test_methods_and_card_name_only_what_a_network_of_pictures_sees(document):
    protocol = PROTOCOL.model_copy(update={"network": Network(kind="image_only")})
    seen = {**document, "protocol": protocol.model_dump(mode="json")}
    text = " ".join(part.text for part in (*methods(seen), *model_card(seen)))
    assert "ultrasound picture" in text and "Output: the probability" in text
    assert "entered the model" not in text and "tumour size" not in text and "Numeric variables" not in text


def test_checklists_are_whole_and_open_where_nobody_knows(document, page):
    tripod, claim = checklists(document)
    assert len(tripod.items) == 52 and len({item.number for item in tripod.items}) == 52
    assert all(item.said or item.open for item in (*tripod.items, *claim.items))
    funding = next(item for item in tripod.items if item.number == "18a")
    assert funding.open and not funding.said
    assert "To write:" in page
    assert [found.name for found in checklists({**document, "protocol": {**document["protocol"], "images": None}})] == [
        "tripod_ai"
    ]


def test_limits_name_what_is_weak(document):
    text = " ".join(limits(document))
    assert "made by software" in text and "Johns_Hopkins" in text and "TCGA_other_pooled (rounds 2–3)" in text


def test_files_of_a_report_are_those_that_the_page_links_to(tmp_path):
    page = write_results(tmp_path, *fake_run()).read_text()
    linked = set(re.findall(r'href="([^"#]+)"', page))
    assert linked and all((tmp_path / link).is_file() for link in linked)
    assert (tmp_path / "model_card.md").read_text().startswith("# Model card: Lateral neck node")
