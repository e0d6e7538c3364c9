import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from client.explaining.noise import SENSITIVITY, gaussian_delta, noise_multiplier, told, with_noise
from client.site_config import Policy
from server import explaining
from server.journal import Journal
from server.study import FederatedStudy
from shared_model import config_file
from shared_model.disclosure import Rule
from shared_model.errors import ConfigurationError, FailureCode, MessageError, RefusedError
from shared_model.explanation_layout import layout
from shared_model.explanations import Cell, ExplanationSummary, by_sign, clipped, groups, small_cells, total
from shared_model.messages import ExplainReply, Message
from shared_model.protocol import StudyProtocol
from tests.sites import Loopback, worker

EXPLANATION = {"parts": ["train", "tune", "test"], "risk_by": None, "drift": 2}


def study(**explanation: object) -> StudyProtocol:
    document = {
        "study": {"name": "small", "title": "A small study", "outcome": "made up"},
        "variables": {"x": {"kind": "numeric"}, "y": {"kind": "numeric"}},
        "network": {"kind": "clinical_only", "width": 8, "heads": 2, "modality_dropout": 0.0, "dropout": 0.0},
        "training": {"epochs": 1, "batch_size": 16, "lr": 0.01},
        "federation": {"rounds": 2, "deadline_s": 5},
        "explanation": EXPLANATION | explanation,
    }
    return config_file.validate(document, StudyProtocol, where="study.toml")


# The monoid


cells = st.dictionaries(
    st.sampled_from(["modalities.share", "variables.low", "risk.distance.0"]),
    st.builds(Cell, st.integers(1, 50).map(float), st.tuples(st.floats(-5, 5), st.floats(-5, 5))),
)
summaries = st.builds(ExplanationSummary, cells)


@settings(deadline=None)
@given(summaries, summaries, summaries)
def test_summaries_add_up_in_any_grouping(a: ExplanationSummary, b: ExplanationSummary, c: ExplanationSummary) -> None:
    lengths = {"modalities.share": 2, "variables.low": 2, "risk.distance.0": 2}
    one, other = ((a + b) + c).flatten(lengths), (c + (b + a)).flatten(lengths)
    assert one == pytest.approx(other, abs=1e-12)
    assert one == pytest.approx(a.flatten(lengths) + b.flatten(lengths) + c.flatten(lengths), abs=1e-12)
    assert a + ExplanationSummary() == a


@settings(deadline=None)
@given(summaries)
def test_a_flat_summary_is_the_summary(a: ExplanationSummary) -> None:
    lengths = {"modalities.share": 2, "variables.low": 2, "risk.distance.0": 2}
    assert ExplanationSummary.unflatten(a.flatten(lengths), lengths) == a


def test_a_flat_summary_of_another_study_is_refused() -> None:
    with pytest.raises(MessageError):
        ExplanationSummary.unflatten(np.zeros(3), {"modalities.share": 1})
    with pytest.raises(MessageError):
        _ = Cell(1.0, (1.0,)) + Cell(1.0, (1.0, 2.0))


def test_no_patient_weighs_more_than_one() -> None:
    values = np.array([[1.0, -2.0, 9.0], [0.3, 0.0, -0.6]])
    parts = clipped(values, clip=3.0)
    assert np.abs(parts).sum(axis=1) == pytest.approx([1.0, 0.3])
    assert np.abs(by_sign(parts)).sum(axis=1) == pytest.approx([1.0, 0.3])
    assert (by_sign(parts) >= 0.0).all()


def test_patients_with_nothing_to_tell_are_not_counted() -> None:
    rows = {"a": (np.array([True, True, False]), np.array([[1.0], [np.nan], [5.0]])), "b": (np.zeros(3, bool), np.ones((3, 2)))}
    assert ExplanationSummary.of(rows) == ExplanationSummary({"a": Cell(1.0, (1.0,))})


# Small cells


def counted(**patients: int) -> ExplanationSummary:
    return ExplanationSummary({name.replace("_", "."): Cell(float(n), (0.0,)) for name, n in patients.items()})


def test_a_small_cell_takes_another_with_it_lest_it_follow_by_subtraction() -> None:
    summary = counted(dependence_age_0=4, dependence_age_1=30, dependence_age_2=12, dependence_sex_0=23, dependence_sex_1=23)
    assert small_cells(summary, minimum=10) == {"dependence.age.0", "dependence.age.2"}


def test_two_small_cells_hide_one_another_only_if_they_are_many() -> None:
    assert small_cells(counted(dependence_age_0=6, dependence_age_1=7, dependence_age_2=30), minimum=10) == {
        "dependence.age.0",
        "dependence.age.1",
    }
    assert small_cells(counted(dependence_age_0=2, dependence_age_1=3, dependence_age_2=30), minimum=10) == {
        "dependence.age.0",
        "dependence.age.1",
        "dependence.age.2",
    }


def test_in_a_table_neither_row_nor_column_gives_a_small_cell_away() -> None:
    table = {f"risk_both_{row}_{column}": 20 for row in range(3) for column in range(3)} | {"risk_both_1_1": 3}
    hidden = small_cells(counted(**table), minimum=10)
    for group in groups(counted(**table).cells):
        out = [name for name in group if name in hidden]
        assert len(out) != 1
    assert len(hidden) < 9


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_what_is_missing_from_a_total_is_never_a_small_group(sizes: list[int]) -> None:
    summary = counted(**{f"dependence_age_{place}": n for place, n in enumerate(sizes) if n})
    hidden = small_cells(summary, minimum=10)
    lost = sum(summary.cells[name].patients for name in hidden)
    assert all(summary.cells[name].patients >= 10 for name in summary.cells.keys() - hidden)
    assert lost == 0 or lost >= 10 or len(hidden) == len(summary.cells)


# Noise


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (0.5, 1e-6), (8.0, 1e-4)])
def test_the_noise_is_that_of_the_analytic_gaussian_mechanism(epsilon: float, delta: float) -> None:
    """Balle and Wang 2018, Theorem 8, solved here by another root finder on the normal distribution function itself."""

    def excess(sigma: float) -> float:
        upper, lower = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        return float(norm.cdf(upper) - math.exp(epsilon) * norm.cdf(lower)) - delta

    assert noise_multiplier(epsilon, delta) == pytest.approx(brentq(excess, 0.01, 1000), rel=1e-6)
    assert gaussian_delta(noise_multiplier(epsilon, delta), epsilon) == pytest.approx(delta, rel=1e-4)


def test_under_privacy_only_some_cells_are_told_and_all_of_them() -> None:
    lengths = {"modalities.share": 3, "modalities.square": 3, "variables.size": 4, "risk.distance.0": 2, "repeat.shapley": 1}
    noisy = with_noise(ExplanationSummary(), lengths, epsilon=1.0, delta=1e-5)
    assert set(noisy.cells) == {"modalities.share", "variables.size"}
    assert not told("dependence.age.0")
    assert not told("risk.both.0.0")
    again = with_noise(ExplanationSummary(), lengths, epsilon=1.0, delta=1e-5)
    assert noisy != again


def test_one_patient_changes_no_more_than_the_sensitivity() -> None:
    """The largest that a patient can bring: counts of 1, and vectors of absolute sum 1."""
    cells = {"modalities.share": (1.0,), "variables.size": (1.0,)}
    summary = ExplanationSummary({name: Cell(1.0, sums) for name, sums in cells.items()})
    flat = summary.flatten({name: len(sums) for name, sums in cells.items()})
    assert np.linalg.norm(flat) == pytest.approx(SENSITIVITY)


def test_under_noise_of_epsilon_1_four_sites_of_300_still_agree_with_the_truth_of_their_sums() -> None:
    """Contributions are those that the invented hospitals' patients really have; noise as four sites add it."""
    from client.synthetic.patients import CaseMix, draw_patients
    from shared_model.attribution.sanity import rank_correlation

    sites = [draw_patients(300, mix=CaseMix(), seed=seed).contributions.drop(columns="intercept") for seed in range(4)]
    parts = [clipped((site - site.mean()).to_numpy(), clip=3.0) for site in sites]
    everybody = np.ones(300, dtype=bool)
    summaries = [ExplanationSummary.of({"variables.size": (everybody, np.abs(part))}) for part in parts]
    lengths = {"modalities.share": 5, "variables.size": parts[0].shape[1]}
    exact = total(summaries).cells["variables.size"].means
    found = []
    for _ in range(40):
        noisy = total(with_noise(summary, lengths, epsilon=1.0, delta=1e-5) for summary in summaries)
        found.append(float(rank_correlation(exact[None], noisy.cells["variables.size"].means[None])[0]))
    assert np.mean(found) >= 0.9


# The study


def run(tmp_path: Path, protocol: StudyProtocol, **patients: int) -> Journal:
    policy = Policy(minimum_patients=1, minimum_cell=1)
    sites = {name: worker(name, tmp_path / "sites", policy=policy, patients=count) for name, count in patients.items()}
    (tmp_path / "run").mkdir(parents=True)
    names = tuple(sorted(sites))
    journal = Journal.create(
        tmp_path / "run", protocol, run="r", engine="in-process", seed=3, enrolled=names, versions={"torch": "x"}
    )
    FederatedStudy(Loopback(sites), journal).run()  # type: ignore[arg-type]
    return journal


def test_a_study_explains_its_best_model_and_models_on_the_way(tmp_path: Path) -> None:
    with run(tmp_path, study(), east=60, west=40) as journal:
        record = journal.record()
        assert set(record.explanations) == {"east", "west"}
        assert list(record.drift) == [1, 2]
        assert record.explanations["east"].summary.cells["modalities.share"].patients == 60.0
        assert set(record.drift[1]["east"].summary.cells) <= set(layout(study(), brief=True))
        assert set(record.explanations["east"].summary.cells) <= set(layout(study()))
        assert "explain" in record.phases


def test_the_federated_summary_is_that_of_all_patients_in_one_place(tmp_path: Path) -> None:
    from client.worker import pooled_worker
    from server.baselines import _explain

    protocol = study(drift=0)
    policy = Policy(minimum_patients=1, minimum_cell=1)
    with run(tmp_path, protocol, east=60, west=45, north=30) as journal:
        record = journal.record()
        workers = [
            worker(site, tmp_path / "sites", policy=policy, patients=n)
            for site, n in (("east", 60), ("west", 45), ("north", 30))
        ]
        central = pooled_worker(workers, name="central", state=tmp_path / "central")
        central.policy = policy
        checkpoint = journal.load_checkpoint(record.best_round)
        assert checkpoint is not None
        weights = checkpoint["model"]
        pooled = _explain(central, protocol, weights, record.normalization, run="central", seed=3)
        lengths = layout(protocol, brief=True)
        summed = total(reply.summary for reply in record.explanations.values()).flatten(lengths)
        assert pooled is not None
        assert np.abs(summed - pooled.flatten(lengths)).max() <= 1e-6 * 135


def test_a_study_that_asks_for_nothing_is_asked_nothing(tmp_path: Path) -> None:
    protocol = study().model_copy(update={"explanation": None})
    with run(tmp_path, protocol, east=60, west=40) as journal:
        assert journal.record().explanations == {}
        assert "explain" not in journal.record().phases
    assert layout(protocol) == {}


def test_noise_reaches_the_center_and_no_small_cell_is_taken_out(tmp_path: Path) -> None:
    with run(tmp_path, study(drift=0, epsilon=1.0), east=60, west=40) as journal:
        for reply in journal.record().explanations.values():
            assert reply.private
            assert set(reply.summary.cells) == {"modalities.share", "variables.size"}
            assert reply.summary.cells["modalities.share"].patients != int(reply.summary.cells["modalities.share"].patients)


def test_noise_is_charged_to_the_site_and_refused_beyond_its_limit(tmp_path: Path) -> None:
    from client.governance.budget import Ledger
    from client.state import lasting

    with run(tmp_path, study(drift=0, epsilon=1.0), east=60, west=40) as journal:
        assert set(journal.record().explanations) == {"east", "west"}
    ledger = Ledger(lasting(tmp_path / "sites", "east"), policy=Policy())
    assert len(ledger.charges()) == 1
    assert ledger.spent() == pytest.approx(1.0, abs=0.02)  # PRV reports an upper bound
    with run(tmp_path / "more", study(drift=0, epsilon=50.0), east=60, west=40) as journal:
        record = journal.record()
        assert record.explanations == {}
        assert {failure.code for failure in record.failures} == {FailureCode.BUDGET_EXCEEDED}


# Admission


def reply(cells: dict[str, Cell], **other: object) -> Message:  # type: ignore[type-arg]
    return Message(ExplainReply("east", "token", ExplanationSummary(cells), seconds=0.1, **other))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "other", "code"),
    [
        ({"maps.first": Cell(20.0, (1.0,))}, {}, FailureCode.MALFORMED_REPLY),
        ({"modalities.share": Cell(20.0, (1.0, 1.0))}, {}, FailureCode.MALFORMED_REPLY),
        ({"modalities.share": Cell(1e6, (1.0,))}, {}, FailureCode.WRONG_COUNT),
        ({"modalities.share": Cell(2.5, (1.0,))}, {}, FailureCode.WRONG_COUNT),
        ({"modalities.share": Cell(20.0, (21.0,))}, {}, FailureCode.WRONG_COUNT),
        ({"variables.low": Cell(20.0, (12.0, 5.0, 5.0, 0.0))}, {}, FailureCode.WRONG_COUNT),
        ({}, {"private": True}, FailureCode.MALFORMED_REPLY),
    ],
)
def test_what_no_patients_can_have_is_refused(
    cells: dict[str, Cell], other: dict[str, object], code: FailureCode, tmp_path: Path
) -> None:
    with run(tmp_path, study(drift=0), east=60, west=40) as journal:
        described = journal.descriptions()["east"]
    with pytest.raises(RefusedError) as error:
        explaining.admit_explanation(reply(cells, **other), protocol=study(), described=described, brief=False)
    assert error.value.code == code


# The protocol


@pytest.mark.parametrize(
    ("explanation", "key"),
    [
        ({"bins": [1.0, 0.0]}, "bins"),
        ({"epsilon": 1.0, "drift": 2}, "epsilon"),
        ({"risk_by": {"position": "x", "distance": "y"}}, "risk_by.position"),
        ({"risk_by": {"position": "z", "distance": "y"}}, "risk_by.position"),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(explanation: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")):
        study(**explanation)


def test_drift_rounds_are_evenly_spaced_and_end_with_the_last() -> None:
    assert explaining.drift_rounds(study(drift=2)) == (1, 2)
    long = study(drift=3).model_copy(update={"federation": study().federation.model_copy(update={"rounds": 15})})
    assert explaining.drift_rounds(long) == (5, 10, 15)


def test_a_summary_survives_the_wire() -> None:
    from shared_model import messages

    message = reply({"modalities.share": Cell(20.0, (3.5,))})
    assert messages.decode(messages.encode(message)).record == message.record
    with pytest.raises(MessageError):
        header = json.loads(messages.encode(message).header)
        header["record"]["summary"]["map"] = [1, 2]
        messages.decode(messages.Envelope(json.dumps(header).encode()))


def test_the_site_rule_decides_what_leaves() -> None:
    from client.governance.disclosure import release

    message = reply(
        {"variables.low": Cell(8.0, (0.0,) * 4), "variables.high": Cell(30.0, (0.0,) * 4), "repeat.shapley": Cell(38.0, (1.0,))}
    )
    record = release(message, rule=Rule()).record
    assert set(record.summary.cells) == {"repeat.shapley"}
    assert [s.what for s in record.suppressed] == ["explanation cells of variables.high", "explanation cells of variables.low"]
