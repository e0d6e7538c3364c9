"""The results document, its schema, and the files written from it."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import server.results
from client.tasks.assessing import Scored, assess
from client.tasks.evaluate import NOBODY
from client.tasks.scoring import performance
from server.records import Arm, SiteFailure, Traffic
from server.results import assemble, write_results
from server.results.files import per_site_csv, write_atomically
from shared_model import metrics
from shared_model.errors import FailureCode
from shared_model.histogram import ScoreHistogram
from shared_model.messages import EvaluateReply
from tests.fake_run import HOSPITALS, PROTOCOL, SILENT, fake_run

SCHEMA = json.loads((Path(server.results.__file__).parent / "schema.json").read_text())


def check(document):
    text = json.dumps(document, allow_nan=False)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    return document


def nulls(block):
    """Names of the numbers that are null, those at a threshold with their place."""
    found = {name for name, value in block["metrics"].items() if value is None}
    for row in block["thresholds"]:
        place = f" at {row['threshold']:g}" if row["rule"] == "preset" else f" at {row['rule']} ({row['chosen_on']})"
        found |= {name + place for name, value in row.items() if value is None}
        found |= {
            f"{name}{place} and prevalence {restated['prevalence']:g}"
            for name in ("ppv_at", "npv_at")
            for restated in row[name]
            if restated["value"] is None
        }
    return found


def in_full(scores, labels):
    """What a site says of test patients, without tuning patients."""
    assessment = assess(
        Scored(scores, labels), NOBODY, evaluation=PROTOCOL.evaluation, subgroups={}, modalities={}, minimum_cell=1, seed=0
    )
    return replace(performance(scores, labels, evaluation=PROTOCOL.evaluation), assessment=assessment)


def with_test_scores(record, scored):
    """``record`` with test results of (scores, labels) at some sites, and nothing elsewhere."""
    replies = {name: EvaluateReply(name, "t", {"test": in_full(*both)}, {}, 0.1) for name, both in scored.items()}
    return replace(record, evaluations=replies)


@pytest.fixture(scope="module")
def run():
    return fake_run()


@pytest.fixture(scope="module")
def document(run):
    return check(assemble(*run))


def test_every_enrolled_site_is_there_in_order(run, document):
    assert list(document["sites"]) == list(run[0].enrolled)


def test_fits_the_schema_without_baselines_and_without_anything(run):
    record, _ = run
    bare = check(assemble(record))
    assert not {"central", "logistic", "federated_vs_central"} & set(bare)
    assert not any("local_only" in site for site in bare["sites"].values())
    nothing = replace(
        record,
        descriptions={},
        rounds=(),
        evaluations={},
        failures=(),
        phases={},
        finished=None,
        traffic=Traffic(),
        best_round=0,
    )
    empty = check(assemble(nothing))
    assert empty["pooled"]["metrics"]["auc"] is None
    assert all(site["n"] is None for site in empty["sites"].values())


def test_schema_refuses_what_it_does_not_know(document):
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        check({**document, "surprise": 1})


def test_every_null_says_why(document):
    blocks = [document["pooled"], document["central"], *document["sites"].values()]
    blocks += [site["local_only"] for site in document["sites"].values() if "local_only" in site]
    for block in blocks:
        assert {item["metric"] for item in block["not_estimable"]} == nulls(block)
        assert all(item["why"] for item in block["not_estimable"])


@pytest.mark.parametrize(
    ("site", "why"),
    [
        ("Basel", "no patients without the event"),
        ("Johns_Hopkins", "no events"),
        ("MD_Anderson", "no test patients"),
        (SILENT, "no answer that counts: unreachable"),
    ],
)
def test_what_cannot_be_estimated_is_null_with_the_reason(document, site, why):
    assert document["sites"][site]["metrics"]["auc"] is None
    assert {"metric": "auc", "why": why} in document["sites"][site]["not_estimable"]


def test_one_event_is_named(run):
    scores, labels = np.array([0.1, 0.2, 0.8, 0.4]), np.array([0.0, 0.0, 1.0, 0.0])
    document = check(assemble(with_test_scores(run[0], {"Johns_Hopkins": (scores, labels)})))
    site = document["sites"]["Johns_Hopkins"]
    assert {item["metric"]: item["why"] for item in site["not_estimable"]}["auc"] == "1 event"
    assert site["metrics"]["average_precision"]["value"] == 1.0


def test_a_score_that_calls_nobody_positive_has_no_predictive_value(run):
    document = check(assemble(with_test_scores(run[0], {"Johns_Hopkins": (np.full(6, 0.1), np.array([0.0, 1.0] * 3))})))
    reasons = {item["metric"]: item["why"] for item in document["sites"]["Johns_Hopkins"]["not_estimable"]}
    assert reasons["ppv at 0.5"] == "nobody is called positive"
    assert reasons["calibration_slope"] == "the scores are all alike, or separate the outcome completely"


def test_pooled_auc_is_that_of_all_patients_together_within_its_bound(run):
    rng = np.random.default_rng(8)
    sites = {}
    for shift, name in zip((0.0, 0.2, 0.4), HOSPITALS, strict=False):
        labels = (rng.random(60) < 0.3).astype(float)
        sites[name] = (np.clip(shift + 0.3 * labels + rng.normal(0.2, 0.15, 60), 0.0, 1.0), labels)
    pooled = check(assemble(with_test_scores(run[0], sites)))["pooled"]
    scores, labels = (np.concatenate(part) for part in zip(*sites.values(), strict=True))
    auc = pooled["metrics"]["auc"]
    assert abs(auc["value"] - roc_auc_score(labels, scores)) <= auc["error_bound"] < 0.01
    assert auc["low"] < auc["value"] < auc["high"]
    assert pooled["metrics"]["brier"]["value"] == pytest.approx(np.mean((scores - labels) ** 2))
    assert (pooled["patients"], pooled["events"], pooled["sites"]) == (180, labels.sum(), 3)


def test_merged_bins_widen_what_follows_from_them_and_say_so(run):
    rng = np.random.default_rng(3)
    labels = (rng.random(120) < 0.4).astype(float)
    scores = np.clip(0.3 * labels + rng.normal(0.35, 0.2, 120), 0.0, 1.0)
    record = with_test_scores(run[0], {"Johns_Hopkins": (scores, labels)})
    reply = record.evaluations["Johns_Hopkins"]
    test = replace(reply.parts["test"], histogram=reply.parts["test"].histogram.coarsened(10))
    tune = performance(scores, labels, evaluation=PROTOCOL.evaluation)
    merged = replace(record, evaluations={"Johns_Hopkins": replace(reply, parts={"tune": tune, "test": test})})
    site = check(assemble(merged))["sites"]["Johns_Hopkins"]
    chosen = [row for row in site["thresholds"] if row["chosen_on"] == "tuning patients of all sites"]
    assert {row["rule"] for row in chosen} == {"sensitivity 0.90", "sensitivity 0.95", "youden"}
    assert any(row["undecided"] for row in chosen)
    for row in chosen:
        exact = np.mean(scores[labels == 1] >= row["threshold"])
        assert row["sensitivity"]["low"] <= exact <= row["sensitivity"]["high"]
    assert max(site["decision_curve"]["error_bound"]) > 0.0
    assert site["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))  # the site's own: exact


def test_of_a_secure_sum_sites_have_their_own_numbers_and_all_together_the_curves(run):
    record = run[0]
    test = {name: reply.parts["test"] for name, reply in record.evaluations.items() if "test" in reply.parts}
    summed = {"test": metrics.pool(test.values())}
    hidden = {
        name: replace(reply, parts={"test": replace(reply.parts["test"], histogram=ScoreHistogram.zero(0))})
        for name, reply in record.evaluations.items()
        if "test" in reply.parts
    }
    document = check(assemble(replace(record, evaluations=hidden, summed=summed)))
    site, plain = document["sites"]["Iran_Hamadan_UCI"], assemble(record)["sites"]["Iran_Hamadan_UCI"]
    assert site["roc"] is site["decision_curve"] is site["risk_distribution"] is None
    assert site["metrics"] == plain["metrics"]
    assert site["calibration_curve"] == plain["calibration_curve"]
    assert document["pooled"]["metrics"] == assemble(record)["pooled"]["metrics"]
    assert document["pooled"]["decision_curve"] is not None


def test_thresholds_are_chosen_on_tuning_patients_of_all_sites(run, document):
    tune = metrics.pool([reply.parts["tune"] for reply in run[0].evaluations.values() if "tune" in reply.parts]).histogram
    row = next(row for row in document["pooled"]["thresholds"] if row["rule"] == "sensitivity 0.90")
    assert row["threshold"] == metrics.threshold_of_sensitivity(tune, 0.9)
    assert row["undecided"] == 0
    own = [row for row in document["sites"]["Iran_Hamadan_UCI"]["thresholds"] if "own" in row["chosen_on"]]
    assert {row["rule"] for row in own} == {"sensitivity 0.90", "sensitivity 0.95", "youden"}


def test_suppressed_subgroups_are_listed_with_the_reason(document):
    hidden = [
        f"{group['variable']}: {group['level']}"
        for site in document["sites"].values()
        for group in (*site["subgroups"], *site["missing_modality"])
        if group["suppressed"]
    ]
    told = [item["what"] for site in document["sites"].values() for item in site["suppressed"]]
    assert hidden
    assert set(hidden) <= set(told)


def test_participation_and_failures_are_told_by_site(document):
    site = document["sites"]["TCGA_other_pooled"]
    assert site["participated"] == [1, *range(4, 13)]
    assert [(failure["round"], failure["code"]) for failure in site["failures"]] == [(2, "deadline"), (3, "not_finite")]
    assert document["sites"][SILENT]["failures"][0]["phase"] == "describe"
    assert document["sites"][SILENT]["participated"] == []


def test_cohorts_are_told_with_what_is_missing(document):
    cohort = document["sites"]["Iran_Hamadan_UCI"]["cohort"]
    assert cohort["missing"] == {"age": 0.0, "tumour_size": 1.0, "sex": 0.0, "extrathyroidal_extension": 0.0, "braf": 1.0}
    assert cohort["variables"]["tumour_size"]["mean"] is None
    assert cohort["variables"]["sex"]["shares"]["female"] == pytest.approx(0.7, abs=0.01)
    size = document["sites"]["Johns_Hopkins"]["cohort"]["variables"]["tumour_size"]
    assert size["geometric"]
    assert 10 < size["mean"] < 30  # back from the logarithm, in mm
    assert document["sites"]["MD_Anderson"]["cohort"]["missing"]["age"] is None


def test_comparators_are_beside_the_federated_model(run, document):
    site = document["sites"]["Iran_Hamadan_UCI"]
    own = next(arm for arm in run[1] if arm.kind == "local" and arm.site == "Iran_Hamadan_UCI")
    assert site["local_only"]["metrics"]["auc"]["value"] == own.test["Iran_Hamadan_UCI"].auc.value
    assert site["local_only"]["pooled"]["patients"] == document["pooled"]["patients"]
    difference = document["federated_vs_central"]["auc"]
    assert difference["value"] == pytest.approx(
        document["pooled"]["metrics"]["auc"]["value"] - document["central"]["metrics"]["auc"]["value"]
    )
    assert document["federated_vs_central"]["brier"] == {
        "value": pytest.approx(
            document["pooled"]["metrics"]["brier"]["value"] - document["central"]["metrics"]["brier"]["value"]
        ),
        "error_bound": 0.0,
    }


def test_comparator_without_the_site_has_nothing_to_say_there(run):
    record, _ = run
    other = performance(np.array([0.2, 0.8]), np.array([0.0, 1.0]), evaluation=PROTOCOL.evaluation)
    document = check(assemble(record, (Arm("local", "MD_Anderson", {"Johns_Hopkins": other}),)))
    local = document["sites"]["MD_Anderson"]["local_only"]
    assert local["metrics"]["auc"] is None
    assert local["pooled"]["patients"] == 2


def test_personal_models_are_beside_the_shared_one(run):
    record, _ = run
    reply = record.evaluations["Iran_Hamadan_UCI"]
    personal = replace(reply, personal={"test": reply.parts["test"]})
    document = check(assemble(replace(record, evaluations={**record.evaluations, "Iran_Hamadan_UCI": personal})))
    site = document["sites"]["Iran_Hamadan_UCI"]
    assert site["personal"]["metrics"] == site["metrics"]


def test_loss_of_a_round_is_weighted_by_patients(run, document):
    sites = run[0].rounds[0].sites.values()
    expected = np.average([site.loss for site in sites], weights=[site.patients for site in sites])
    assert document["rounds"][0]["loss"] == pytest.approx(expected)
    assert document["rounds"][0]["sites"]["Johns_Hopkins"]["tune_auc"] is None


@pytest.mark.parametrize(("engine", "overhead"), [("in-process", 10.0 - 9.0), ("flower", 10.0 - 5.0)])
def test_overhead_is_time_in_which_no_site_computed(run, engine, overhead):
    record, _ = run
    row = record.rounds[0]
    first, second = list(row.sites)[:2]
    sites = {first: replace(row.sites[first], seconds=4.0), second: replace(row.sites[second], seconds=5.0)}
    record = replace(
        record, engine=engine, descriptions={}, evaluations={}, rounds=(replace(row, sites=sites),),
        phases={"train": 9.5, "evaluate": 0.5}, site_compute_s=9.0,
    )  # fmt: skip
    timing = check(assemble(record))["timing"]
    assert timing["site_compute_s"] == 9.0
    assert timing["overhead_s"] == pytest.approx(overhead)
    assert timing["wall_s"] == 10.0


def test_a_site_that_failed_the_evaluation_is_told_so(run):
    record, _ = run
    replies = {name: reply for name, reply in record.evaluations.items() if name != "Iran_Hamadan_UCI"}
    failed = SiteFailure("Iran_Hamadan_UCI", "evaluate", 0, FailureCode.OUT_OF_MEMORY, "the site ran out of memory")
    document = check(assemble(replace(record, evaluations=replies, failures=(failed,))))
    site = document["sites"]["Iran_Hamadan_UCI"]
    assert site["n"]["test"] == 76
    assert site["not_estimable"][0]["why"] == "no answer that counts: out of memory"
    assert site["roc"] is None


def test_table_has_a_row_a_site_and_one_for_all(document):
    rows = list(csv.DictReader(io.StringIO(per_site_csv(document))))
    assert [row["name"] for row in rows] == [*document["sites"], "all sites"]
    by_name = {row["name"]: row for row in rows}
    site, row = document["sites"]["Iran_Hamadan_UCI"]["metrics"], document["sites"]["Iran_Hamadan_UCI"]["thresholds"][0]
    assert float(by_name["Iran_Hamadan_UCI"]["auc"]) == site["auc"]["value"]
    assert float(by_name["Iran_Hamadan_UCI"]["sensitivity_at_0.2_low"]) == row["sensitivity"]["low"]
    assert by_name["Johns_Hopkins"]["auc"] == ""
    assert "auc: no events" in by_name["Johns_Hopkins"]["not_estimable"]
    assert by_name[SILENT]["patients_test"] == ""
    assert float(by_name["all sites"]["auc_error_bound"]) == document["pooled"]["metrics"]["auc"]["error_bound"]
    assert "None" not in per_site_csv(document)
    assert "nan" not in per_site_csv(document).lower()


def test_files_are_written_whole_and_again_the_same(run, tmp_path):
    report = write_results(tmp_path, *run)
    assert report == tmp_path / "report.html"
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"results.json", "per_site.csv", "report.html"} <= {str(name) for name in first}
    assert any(name.suffix == ".svg" for name in first)
    assert not [name for name in first if name.suffix in {".tmp", ".partial"}]
    check(json.loads(first[Path("results.json")]))
    write_results(tmp_path, *run)
    assert first == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_figures_of_an_earlier_report_do_not_stay(run, tmp_path):
    record, arms = run
    write_results(tmp_path, record, arms)
    write_results(tmp_path, replace(record, rounds=()), ())
    assert not (tmp_path / "figures" / "convergence.svg").exists()
    assert (tmp_path / "figures" / "roc_all_sites.svg").exists()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
