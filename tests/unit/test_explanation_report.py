"""Explanations in the results document and on the page, from sums that are drawn, not computed."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import server.results
from server import report
from server.records import Arm
from server.report import compare
from server.report.tables import explained_runs
from server.results.document import assemble
from server.results.explanation_tests import verdicts
from shared_model.disclosure import Suppression, Why
from shared_model.explanation_layout import layout
from shared_model.explanations import Cell, ExplanationSummary
from shared_model.messages import ExplainReply
from shared_model.protocol import StudyProtocol
from shared_model.protocol_explanation import Explanation, RiskBy
from tests.fake_run import PROTOCOL, fake_run

SCHEMA = json.loads((Path(server.results.__file__).parent / "schema.json").read_text())
EXPLAINED = Explanation(risk_by=RiskBy(position="sex", distance="age", edges=(40.0, 60.0)), drift=2)


def protocol(**settings: object) -> StudyProtocol:
    return PROTOCOL.model_copy(update={"explanation": EXPLAINED.model_copy(update=settings)})


def summary(seed: int, *, brief: bool = False, patients: float = 40.0, kind: str = "multimodal") -> ExplanationSummary:
    """Every cell that the study has; contributions grow from variable to variable."""
    rng, cells = np.random.default_rng(seed), {}
    network = PROTOCOL.network.model_copy(update={"kind": kind})
    for name, length in layout(protocol().model_copy(update={"network": network}), brief=brief).items():
        means = rng.uniform(0.1, 0.3, length) / length * np.arange(1, length + 1)
        if name == "modalities.square":
            means = means**2 + 0.02
        if name.startswith("risk."):
            means = np.array([0.5, 0.4])
        cells[name] = Cell(patients, tuple(map(float, patients * means)))
    return ExplanationSummary(cells)


def of_arm(arm: Arm) -> ExplanationSummary:
    """A comparator's brief one; logistic regression looks at tables only."""
    return summary(9, brief=True, kind="logistic" if arm.kind == "logistic" else "multimodal")


def document(**settings: object) -> dict:  # type: ignore[type-arg]
    record, arms = fake_run()
    hidden = (Suppression("explanation cells of dependence.age", Why.FEW_PATIENTS),)
    replies = {
        site: ExplainReply(site, "token", summary(seed), 1.0, suppressed=hidden if seed == 0 else ())
        for seed, site in enumerate(list(record.descriptions)[:3])
    }
    drift = {
        model: {site: replace(reply, summary=summary(model, brief=True)) for site, reply in replies.items()}
        for model in (6, 12)
    }
    arms = tuple(replace(arm, explanations={s: of_arm(arm) for s in replies if arm.site in {None, s}}) for arm in arms)
    record = replace(record, protocol=protocol(**settings), explanations=replies, drift=drift)
    return assemble(record, arms)


def test_the_block_fits_the_schema() -> None:
    found = document()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(found, allow_nan=False)))
    explained = found["explanation"]
    assert explained["patients"] == 120.0
    assert sum(explained["modality_share"][name]["value"] for name in ("bmode", "doppler", "clinical", "genomic")) > 0.0
    assert {row["kind"] for row in explained["compared"]} == {"local", "central", "logistic"}
    assert [step["round"] for step in explained["drift"]] == [6, 12]
    logistic = next(row for row in explained["compared"] if row["kind"] == "logistic")
    assert list(logistic["modality_share"]) == ["clinical", "genomic"]
    assert logistic["largest_difference_of_share"] is None


def test_contributions_are_logits_again() -> None:
    """Three sites of 40; a mean of sums in units of ``clip``."""
    found = {row["name"]: row for row in document()["explanation"]["variables"]}
    names, clip = [name for name in found if name == "braf"], EXPLAINED.clip
    place = len(PROTOCOL.variables) - 1
    expected = clip * sum(summary(seed).cells["variables.size"].sums[place] for seed in range(3)) / (3 * 40.0)
    assert names == ["braf"]
    assert found["braf"]["mean_absolute"] == pytest.approx(expected)
    assert list(found) == sorted(found, key=lambda name: -found[name]["mean_absolute"])


def test_a_run_without_explanations_has_no_block_and_no_section() -> None:
    record, arms = fake_run()
    found = assemble(record, arms)
    assert "explanation" not in found
    assert 'id="explanation"' not in report.render(found)


def test_the_page_tells_what_failed_and_what_was_kept_back() -> None:
    page = report.render(document())
    assert 'id="explanation"' in page
    assert ">failed <small" in page
    assert "explanation_by_site.csv" in page
    assert "Kept back by sites" in page
    assert "more than 72% within 2.5 mm" in page


def test_the_page_tells_of_noise_and_of_private_training() -> None:
    assert "differentially private" in report.render(document(epsilon=1.0, drift=0))


# Verdicts


def of(name: str, *means: float, patients: float = 100.0) -> list[dict]:  # type: ignore[type-arg]
    cell = Cell(patients, tuple(patients * mean for mean in means))
    return verdicts(ExplanationSummary({name: cell}), protocol())


def curve(mean: float, spread: float) -> tuple[float, float]:
    return mean, mean**2 + spread**2


def test_deletion_passes_only_where_intervals_do_not_meet() -> None:
    far = of("faithfulness.occlusion", *curve(0.2, 0.1), *curve(0.8, 0.1), *curve(0.5, 0.1), *curve(0.5, 0.1))
    assert [row["passed"] for row in far] == [True, True]
    near = of("faithfulness.occlusion", *curve(0.48, 0.1), *curve(0.52, 0.1), *curve(0.5, 0.1), *curve(0.5, 0.1))
    assert [row["passed"] for row in near] == [False, False]
    wrong = of("faithfulness.occlusion", *curve(0.8, 0.1), *curve(0.2, 0.1), *curve(0.5, 0.1), *curve(0.5, 0.1))
    assert [row["passed"] for row in wrong] == [False, False]


def test_pointing_passes_above_the_lesion_area() -> None:
    assert of("pointing.grad_cam", 0.6, 0.6, 0.2)[0]["passed"]
    assert not of("pointing.grad_cam", 0.22, 0.22, 0.2)[0]["passed"]


def test_a_map_that_does_not_depend_on_training_fails_in_either_direction() -> None:
    assert of("cascade.grad_cam", 0.9, 0.8, 0.5, 0.3, 0.1)[0]["passed"]
    assert not of("cascade.grad_cam", 0.9, 0.8, 0.8, 0.8, 0.8)[0]["passed"]
    assert not of("cascade.occlusion", -0.8)[0]["passed"]


def test_too_many_gaps_fail() -> None:
    assert of("complete.variables", 0.0001, 0.0)[0]["passed"]
    assert not of("complete.integrated_gradients", 0.05, 0.2)[0]["passed"]


def test_runs_are_compared_by_what_moves_their_models() -> None:
    """With and without differential privacy: the same order of the variables, though all contributions are halved."""
    plain = document()
    private = json.loads(json.dumps(plain))
    private["explanation"] |= {"training_epsilon": 8.0, "noise": {"epsilon": 1.0, "delta": 1e-5}}
    for row in private["explanation"]["variables"]:
        row["mean_absolute"] /= 2
    without = json.loads(json.dumps(plain)) | {"explanation": None}
    modalities, variables = (
        found for found in explained_runs.build({"plain": plain["explanation"], "dp": private["explanation"]}) if found
    )
    rows = {row.cells[0].text: row.cells[1:] for row in (*modalities.rows, *variables.rows)}
    assert [cell.text for cell in rows["Epsilon of the training"]] == ["none", "8"]
    assert [cell.text for cell in rows["Epsilon of the explanation"]] == ["none", "1"]
    assert rows["Rank correlation with the first run"][1].text == "1.00"
    first, second = (cell.values[""] for cell in rows["age"])
    assert second == pytest.approx(first / 2)
    page = compare.render([compare.Run("plain", plain), compare.Run("dp", private), compare.Run("silent", without)])
    assert "Why the models say what they say" in page and "silent" in page
    assert "Why the models say what they say" not in compare.render([compare.Run("a", without), compare.Run("b", without)])
