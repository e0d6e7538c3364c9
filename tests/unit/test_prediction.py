"""``consilium-site predict`` on a small invented hospital, with a network that was never trained."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from client.cli import app
from client.prediction.recalibration import Recalibration, fit
from client.prediction.words import Contribution, chance, odds, sentence
from client.synthetic import synthesize
from server.cli import app as center
from shared_model.network import build_network
from shared_model.protocol import StudyProtocol, read_protocol
from shared_model.summaries import Normalization
from tests.tables import write_sites, write_study

STUDY = Path(__file__).parents[2] / "site_configs" / "demo" / "study.toml"


def normalization(protocol: StudyProtocol) -> Normalization:
    numeric = [v for v in protocol.variables.values() if v.kind == "numeric"]
    categorical = [v for v in protocol.variables.values() if v.kind == "categorical"]
    return Normalization(
        tuple(3.0 for _ in numeric),
        tuple(2.0 for _ in numeric),
        tuple((1 / len(v.categories),) * len(v.categories) for v in categorical),
    )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A site.toml and a model."""
    folder = tmp_path_factory.mktemp("hospital")
    protocol = read_protocol(STUDY)
    known = normalization(protocol)
    network = build_network(protocol, normalization=known, seed=1)
    metadata = {
        "protocol": protocol.canonical_json,
        "protocol_sha256": protocol.sha256,
        "run": "abc",
        "round": "7",
        "normalization": json.dumps(known.__dict__),
    }
    model = folder / "best.safetensors"
    model.write_bytes(save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, metadata=metadata))
    return synthesize(folder, hospital="alder", patients=100, seed=3), model


def predict(hospital: tuple[Path, Path], out: Path, *more: str):  # type: ignore[no-untyped-def]
    site, model = hospital
    return CliRunner().invoke(app, ["predict", "--model", str(model), "--site", str(site), "--out", str(out), *more])


def test_the_card_says_everything_that_it_must(hospital: tuple[Path, Path], tmp_path: Path) -> None:
    result = predict(hospital, tmp_path / "card.html", "--patient", "AL0003")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "card.html").read_text()
    for words in (
        "Research use only",
        "Model sensitivity, not lesion evidence",
        "Patient AL0003",
        "after round 7",
        "test patients",
        "What raised and lowered",
        "lateral lymph-node metastasis",
    ):
        assert words in page, words
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_the_table_holds_every_patient_and_agrees_with_the_card(hospital: tuple[Path, Path], tmp_path: Path) -> None:
    assert predict(hospital, tmp_path / "all.csv").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert len(rows) == 100
    assert {row["use"] for row in rows} == {"research use only"}
    assert all(0.0 < float(row["risk"]) < 1.0 for row in rows)
    assert all(float(row["low"]) <= float(row["risk_recalibrated"]) <= float(row["high"]) for row in rows if row["low"])


def test_a_patient_whose_outcome_is_not_known_has_a_card(hospital: tuple[Path, Path], tmp_path: Path) -> None:
    site, model = hospital
    table = site.parent / "patients.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    place = rows[0].index("llnm")
    whole = table.read_text()
    try:
        rows[5][place] = ""
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        result = predict((site, model), tmp_path / "new.html", "--patient", rows[5][0])
        assert result.exit_code == 0, result.output
        assert "among those" not in (tmp_path / "new.html").read_text()  # neither trained nor chosen by
        assert predict((site, model), tmp_path / "all.csv").exit_code == 0
        assert rows[5][0] not in {row["patient"] for row in csv.DictReader((tmp_path / "all.csv").read_text().splitlines())}
    finally:
        table.write_text(whole)


@pytest.mark.parametrize(
    ("more", "out", "words"),
    [
        (("--patient", "AL9999"), "card.html", "an identifier of column"),
        (("--patient", "AL0001"), "card.pdf", "ends with .html"),
        ((), "all.html", "ends with .csv"),
        ((), "nowhere/all.csv", "no folder"),
    ],
)
def test_what_a_user_can_mend_is_told(
    hospital: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...], out: str, words: str
) -> None:
    result = predict(hospital, tmp_path / out, *more)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_changed_or_torn_model_is_refused(hospital: tuple[Path, Path], tmp_path: Path) -> None:
    site, model = hospital
    content = model.read_bytes()
    torn = tmp_path / "torn.safetensors"
    for broken in (
        content[: len(content) // 2],
        b"",
        b"\xff" * 64,
        content.replace(b'\\"outcome\\":\\"lateral', b'\\"outcome\\":\\"Lateral'),
    ):
        torn.write_bytes(broken)
        result = predict((site, torn), tmp_path / "card.html", "--patient", "AL0001")
        assert result.exit_code == 2, broken[:40]
        assert "--model" in result.stderr
    assert predict((site, tmp_path / "none.safetensors"), tmp_path / "card.html", "--patient", "AL0001").exit_code == 2


def test_recalibration_is_maximum_likelihood_with_its_interval() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    logits = rng.normal(size=200)
    labels = (rng.random(200) < expit(0.5 + 0.7 * logits)).astype(float)
    oracle = sm.Logit(labels, sm.add_constant(logits)).fit(disp=0)
    found = fit(logits, labels)
    assert isinstance(found, Recalibration)
    assert (found.intercept, found.slope) == pytest.approx(tuple(oracle.params), abs=1e-6)
    assert found.covariance == pytest.approx(np.asarray(oracle.cov_params()), abs=1e-6)
    risk = found.risk(1.0)
    assert risk.low < risk.value < risk.high


def test_recalibration_says_why_there_is_none() -> None:
    assert "too few" in str(fit(np.zeros(10), np.zeros(10)))
    logits = np.linspace(-1, 1, 40)
    assert "separate" in str(fit(logits, (logits > 0).astype(float)))
    assert isinstance(fit(np.zeros(40), np.tile([0.0, 1.0], 20)), str)


def test_words() -> None:
    assert (odds(0.7), odds(-0.7), odds(0.01), odds(3.0)) == ("odds × 2.0", "odds ÷ 2.0", "no difference", "odds × 20")
    assert (chance(0.0), chance(0.25), chance(1.0)) == ("less than 1 %", "25 %", "more than 99 %")
    rows = [Contribution("tumour_size", "23 mm", 0.7), Contribution("braf", None, -0.7)]
    assert sentence(rows) == "Raised most by tumour size: 23 mm (odds × 2.0). Lowered most by braf: not measured (odds ÷ 2.0)."
    assert sentence([]) == "No single finding makes much difference."


def test_a_model_with_layers_that_stay_at_the_hospital_is_used_with_its_own(tmp_path: Path) -> None:
    """The risks are those that the study told of the hospital's patients, and there are none without the worker's state."""
    study = write_study(tmp_path, rounds=3, federation='personal = ["head"]')
    sites, run = write_sites(tmp_path), tmp_path / "run"
    done = CliRunner().invoke(center, ["simulate", str(study), *map(str, sites), "--out", str(run), "--threads", "1"])
    assert done.exit_code == 0, done.output
    hospital, out = (sites[0], run / "models" / "best.safetensors"), tmp_path / "risks.csv"
    refused = predict(hospital, out)
    assert refused.exit_code == 2 and "each hospital keeps layers of its own" in " ".join(refused.stderr.split())
    assert not out.exists()
    assert predict(hospital, out, "--state", str(tmp_path / "nothing")).exit_code == 2
    assert predict(hospital, out, "--state", str(run / "sites")).exit_code == 0
    tested = [row for row in csv.DictReader(out.read_text().splitlines()) if row["part"] == "test"]
    labels = [row["outcome"] == "1" for row in tested]
    told = json.loads((run / "results.json").read_text())["sites"]["east"]["metrics"]["auc"]["value"]
    assert roc_auc_score(labels, [float(row["risk"]) for row in tested]) == pytest.approx(told)
