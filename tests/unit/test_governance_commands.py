"""``consilium-site approve``, ``revoke`` and ``approvals``, as a hospital uses them."""

import json
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner, Result

from client.cli import app
from client.governance.approval import Approvals
from client.state import lasting
from shared_model.protocol import read_protocol
from tests.unit.test_study import protocol


class Desk:
    """Where a person sits who decides: a study, a site's configuration, a folder of the worker."""

    def __init__(self, folder: Path) -> None:
        self.study, self.site, self.state = folder / "study.toml", folder / "site.toml", folder / "state"
        document = json.loads(protocol(federation={"rounds": 7}).canonical_json)
        self.save_study(document)
        label = {"column": "y", "positive": [1], "negative": [0]}
        variables = {"a": {"column": "a"}}
        cohort = {"table": "t.csv", "patient_id": "id", "label": label, "variables": variables}
        self.site.write_text(tomli_w.dumps({"site": {"name": "north"}, "cohort": cohort, "policy": {"max_rounds": 5}}))

    def save_study(self, document: dict[str, object]) -> None:
        self.study.write_text(tomli_w.dumps(without_none(document)))

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        options = ["--site", str(self.site), "--state", str(self.state)]
        return CliRunner().invoke(app, [*arguments, *options], input=answer)

    @property
    def approvals(self) -> Approvals:
        return Approvals(lasting(self.state, "north"))


def without_none(document: object) -> object:
    if isinstance(document, dict):
        return {key: without_none(value) for key, value in document.items() if value is not None}
    return document


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_person_reads_what_would_happen_and_decides(desk: Desk) -> None:
    no = desk.run("approve", str(desk.study), answer="n\n")
    assert no.exit_code == 1
    assert desk.approvals.all() == ()
    sha256 = read_protocol(desk.study).sha256
    for told in (sha256, "Up to 7 rounds", "Variables used: a; not at this hospital: b", "No differential privacy", "1 to 4"):
        assert told in no.output
    assert "policy.max_rounds is 5" in no.output
    yes = desk.run("approve", str(desk.study), "--by", "Dr. Roe", answer="y\n")
    assert yes.exit_code == 0, yes.output
    [approval] = desk.approvals.all()
    assert (approval.by, approval.protocol_sha256, approval.rounds, approval.automatic) == ("Dr. Roe", sha256, 5, False)
    assert "approved already: by Dr. Roe" in desk.run("approve", str(desk.study), "--yes", "--by", "x").output


def test_all_that_a_study_may_ask_for_is_told(desk: Desk) -> None:
    """Groups, clinicians' assessments and explanations leave too, and an explanation may need a budget of its own."""
    asking = protocol(
        evaluation={"subgroups": {"b": {"cuts": [0.0]}}},
        comparators={"reader": {"categories": ["no", "yes"], "positive": ["yes"]}},
        explanation={"patients": 70, "drift": 2},
    )
    desk.save_study(json.loads(asking.canonical_json))
    told = desk.run("approve", str(desk.study), answer="n\n").output
    for words in (
        "groups of patients by b,",
        "How reader did",
        "of at most 70 tuning and test patients",
        "after 2 rounds",
        "no noise",
    ):
        assert words in told, words
    private = {"patients": 70, "epsilon": 9.0}
    desk.save_study(json.loads(protocol(explanation=private).canonical_json))
    told = desk.run("approve", str(desk.study), answer="n\n").output
    assert "epsilon 9 besides" in told
    assert "asks for 9 more, policy.epsilon_limit is 8" in told
    assert "after 2 rounds" not in told


def test_nobody_approves_without_a_name(desk: Desk) -> None:
    nameless = desk.run("approve", str(desk.study), "--yes")
    assert nameless.exit_code == 2
    assert "--by" in nameless.stderr
    assert desk.approvals.all() == ()


def test_where_nobody_can_answer_that_is_told(desk: Desk) -> None:
    asked = desk.run("approve", str(desk.study), "--by", "Dr. Roe", answer="")
    assert asked.exit_code == 2
    assert "nobody to ask" in asked.stderr
    assert desk.approvals.all() == ()


def test_an_approval_is_listed_and_taken_back(desk: Desk) -> None:
    assert "nothing is approved" in desk.run("approvals").output
    desk.run("approve", str(desk.study), "--yes", "--by", "Dr. Roe")
    wrong = desk.run("revoke", "t")
    assert wrong.exit_code == 2
    assert read_protocol(desk.study).sha256[:12] in wrong.stderr
    assert desk.run("revoke", "s", "--by", "Dr. Doe").exit_code == 0
    [listed] = json.loads(desk.run("approvals", "--json").output)
    assert (listed["by"], listed["revoked_by"]) == ("Dr. Roe", "Dr. Doe")
    assert "revoked by Dr. Doe" in desk.run("approvals").output


def test_the_epsilon_that_is_planned_is_shown_and_kept(desk: Desk) -> None:
    document = json.loads(protocol().canonical_json)
    desk.save_study(document | {"privacy": {"dp": {"epsilon": 3.0}}})
    shown = desk.run("approve", str(desk.study), "--yes", "--by", "Dr. Roe")
    assert "at most epsilon 3 at delta 1e-05" in shown.output
    assert desk.approvals.all()[0].epsilon == 3.0


def test_faults_of_both_files_are_told_at_once(desk: Desk) -> None:
    desk.study.write_text("[study]\nname = 3")
    desk.site.write_text("[sit]")
    both = desk.run("approve", str(desk.study), "--yes", "--by", "x")
    assert both.exit_code == 2
    assert "study.toml" in both.stderr
    assert "site.toml" in both.stderr
