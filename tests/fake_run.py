"""A finished run with everything that goes wrong in one: a site of each class alone, an empty one, one that dropped out for
two rounds, one that never answered. Scores are drawn, not trained."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from client.tasks.assessing import Scored, assess
from client.tasks.scoring import performance
from server.records import Arm, RoundRecord, RunRecord, SiteFailure, SiteRound, Traffic
from shared_model.errors import FailureCode
from shared_model.messages import DescribeReply, EvaluateReply
from shared_model.protocol import Evaluation, Federation, Images, Network, Study, StudyProtocol, Training, View
from shared_model.protocol_evaluation import Subgroup
from shared_model.summaries import CategoryCounts, CohortFlow, Moments, PartCounts, Performance
from shared_model.variables import Variable

ROUNDS = 12
PROTOCOL = StudyProtocol(
    study=Study(
        name="llnm_multimodal",
        title="Lateral neck node metastasis from ultrasound and clinical findings",
        outcome="lateral lymph node metastasis (N1b)",
        synthetic=True,
    ),
    variables={
        "age": Variable(kind="numeric", unit="years", range=(0.0, 120.0)),
        "tumour_size": Variable(kind="numeric", unit="mm", range=(1.0, 150.0), log=True),
        "sex": Variable(kind="categorical", categories=("female", "male")),
        "extrathyroidal_extension": Variable(kind="categorical", categories=("none", "minimal", "gross")),
        "braf": Variable(kind="categorical", categories=("wild type", "mutated"), group="genomic"),
    },
    images=Images(views={"bmode_transverse": View(), "doppler": View(modality="doppler")}, size=64),
    network=Network(),
    training=Training(epochs=1),
    federation=Federation(rounds=ROUNDS),
    evaluation=Evaluation(
        thresholds=(0.2, 0.5),
        prevalences=(0.1, 0.3),
        subgroups={"sex": Subgroup(), "age": Subgroup(cuts=(45.0, 60.0))},
        bootstrap=400,
        histogram_bins=200,
    ),
)


@dataclass(frozen=True)
class Hospital:
    """``skill`` separates the classes in the scores, ``shift`` moves their log odds (miscalibration)."""

    patients: int
    prevalence: float
    skill: float = 1.5
    shift: float = 0.0


HOSPITALS = {
    "Iran_Hamadan_UCI": Hospital(383, 0.24, skill=1.6),
    "TCGA_other_pooled": Hospital(103, 0.24, skill=1.2, shift=0.5),
    "Memorial_Sloan_Kettering": Hospital(93, 0.22, skill=0.8, shift=-0.6),
    "University_Health_Network": Hospital(62, 0.27, skill=1.3),
    "Johns_Hopkins": Hospital(47, 0.0),
    "MD_Anderson": Hospital(0, 0.0),
    "Basel": Hospital(36, 1.0),
}
SILENT = "Univ_Pittsburgh"


def fake_run() -> tuple[RunRecord, tuple[Arm, ...]]:
    """The record of the run and its comparators; the same on every call."""
    described = {name: _describe(name, hospital, seed) for seed, (name, hospital) in enumerate(HOSPITALS.items())}
    tested = {name: _test(hospital, seed) for seed, (name, hospital) in enumerate(HOSPITALS.items()) if hospital.patients}
    tuned = {name: _tune(hospital, seed) for seed, (name, hospital) in enumerate(HOSPITALS.items()) if hospital.patients}
    record = RunRecord(
        run="20260301-101500-7f3a",
        protocol=PROTOCOL,
        engine="in-process",
        seed=42,
        versions={"consilium": "0.1.0", "python": "3.11.9", "torch": "2.15.0", "flwr": "1.41.0"},
        started="2026-03-01T10:15:00+00:00",
        finished="2026-03-01T10:19:41+00:00",
        enrolled=(*HOSPITALS, SILENT),
        descriptions=described,
        normalization=None,
        rounds=tuple(_round(number) for number in range(1, ROUNDS + 1)),
        best_round=9,
        stopped="all planned rounds done",
        evaluations={
            name: EvaluateReply(name, "token", {"tune": tuned[name], "test": tested[name]} if name in tested else {}, {}, 0.8)
            for name in HOSPITALS
        },
        failures=(
            SiteFailure(SILENT, "describe", 0, FailureCode.UNREACHABLE, "no answer to any of 2 attempts"),
            SiteFailure("TCGA_other_pooled", "train", 2, FailureCode.DEADLINE, "no reply within 3600 s"),
            SiteFailure("TCGA_other_pooled", "train", 3, FailureCode.NOT_FINITE, "the update holds NaN"),
            *(
                SiteFailure("MD_Anderson", "train", number, FailureCode.TOO_FEW_PATIENTS, "the site has no training patients")
                for number in range(1, ROUNDS + 1)
            ),
        ),
        phases={"describe": 4.1, "train": 190.5, "evaluate": 9.2},
        site_compute_s=203.0,
        traffic=Traffic(bytes_down=183_000_000, bytes_up=171_500_000),
    )
    return record, _arms(tested)


def _draw(hospital: Hospital, seed: int, *, skill: float = 1.0) -> Scored:
    """A fifth of the cohort; the same patients for every ``skill``."""
    rng = np.random.default_rng(seed)
    n = hospital.patients // 5
    labels = (np.arange(n) < round(n * hospital.prevalence)).astype(float)
    noise = rng.normal(size=n)
    expected = min(max(hospital.prevalence, 0.2), 0.8)
    centre = np.log(expected / (1.0 - expected))
    logit = centre + hospital.shift + 0.8 * noise + hospital.skill * skill * (labels - 0.4)
    return Scored(1.0 / (1.0 + np.exp(-logit)), labels)


def _tune(hospital: Hospital, seed: int, *, skill: float = 1.0) -> Performance:
    """Tuning patients, others than the test patients of the same seed."""
    tune = _draw(hospital, 50 + seed, skill=skill)
    return performance(tune.scores, tune.labels, evaluation=PROTOCOL.evaluation)


def _scored(hospital: Hospital, seed: int, *, skill: float) -> Performance:
    """Test patients with what adds up, as the pooled result of a comparator needs them."""
    test = _draw(hospital, seed, skill=skill)
    return performance(test.scores, test.labels, evaluation=PROTOCOL.evaluation)


def _test(hospital: Hospital, seed: int, *, skill: float = 1.0) -> Performance:
    """Test patients with everything that a site says of them."""
    test, tune = _draw(hospital, seed, skill=skill), _draw(hospital, 50 + seed, skill=skill)
    rng = np.random.default_rng(200 + seed)
    n = test.labels.size
    age, male, doppler = rng.normal(46.0, 14.0, n), rng.random(n) < 0.3, rng.random(n) < 0.6
    levels = {"below 45": age < 45.0, "45 to below 60": (age >= 45.0) & (age < 60.0), "60 and above": age >= 60.0}
    assessment = assess(
        test,
        tune,
        evaluation=PROTOCOL.evaluation,
        subgroups={"sex": {"female": ~male, "male": male}, "age": levels},
        modalities={"bmode": np.full(n, True), "doppler": doppler & (seed % 2 == 1), "clinical": np.full(n, True)},
        minimum_cell=5,
        seed=seed,
    )
    return replace(performance(test.scores, test.labels, evaluation=PROTOCOL.evaluation), assessment=assessment)


def _describe(name: str, hospital: Hospital, seed: int) -> DescribeReply:
    rng = np.random.default_rng(100 + seed)
    n = hospital.patients
    test, tune = n // 5, n // 5
    train = n - test - tune
    events = {part: round(size * hospital.prevalence) for part, size in (("train", train), ("tune", tune), ("test", test))}
    without_size = n if name == "Iran_Hamadan_UCI" else n // 12
    measured = train if without_size < n else 0
    male = int(0.3 * train)
    return DescribeReply(
        site=name,
        attempt="token",
        flow=CohortFlow(
            found=n + 17 if n else 0,
            excluded={"no label": 14, "age outside 0 to 120 years": 3} if n else {},
            images_found=2 * n,
            images_unusable=n // 60,
        ),
        parts={
            "train": PartCounts(train, events["train"]),
            "tune": PartCounts(tune, events["tune"]),
            "test": PartCounts(test, events["test"]),
        },
        moments={
            "age": Moments.of(rng.normal(44.0, 14.0, train)),
            "tumour_size": Moments.of(rng.normal(2.9, 0.6, measured)),
        },
        categories={
            "sex": CategoryCounts((train - male, male)),
            "extrathyroidal_extension": CategoryCounts((train - train // 4 - train // 9, train // 4, train // 9)),
            "braf": CategoryCounts((0, 0) if seed % 2 == 0 else (train // 2, train - train // 2)),
        },
        missing={"age": 0, "tumour_size": without_size, "sex": 0, "braf": n if seed % 2 == 0 else 0},
        modalities={"bmode": n, "doppler": n // 2 if seed % 2 else 0, "clinical": n, "genomic": 0 if seed % 2 == 0 else n},
        seconds=0.4,
    )


def _round(number: int) -> RoundRecord:
    progress = 1.0 - np.exp(-number / 4.0)
    sites = {}
    for seed, (name, hospital) in enumerate(HOSPITALS.items()):
        absent = name == "MD_Anderson" or (name == "TCGA_other_pooled" and number in {2, 3})
        if not absent:
            wobble = 0.02 * np.random.default_rng(1000 * seed + number).normal()
            sites[name] = SiteRound(
                patients=hospital.patients - 2 * (hospital.patients // 5),
                loss=0.68 - 0.25 * progress * hospital.skill / 1.5 + wobble,
                steps=12,
                seconds=2.0 + 0.01 * hospital.patients,
                update_norm=1.4 / number + 0.1,
                tune=_tune(hospital, seed, skill=progress),
            )
    entering = number - 1
    selection = 0.58 + 0.22 * (1.0 - np.exp(-entering / 4.0)) - 0.02 * max(entering - 9, 0)
    return RoundRecord(number, sites, float(selection), 15.9, "0" * 64)


def _arms(tested: dict[str, Performance]) -> tuple[Arm, ...]:
    def at_all_sites(skill: float, *, in_full: Collection[str] = HOSPITALS) -> dict[str, Performance]:
        return {
            name: (_test if name in in_full else _scored)(HOSPITALS[name], seed, skill=skill)
            for seed, name in enumerate(HOSPITALS)
            if name in tested
        }

    local = [Arm("local", name, at_all_sites(0.35 + 0.4 * HOSPITALS[name].patients / 400, in_full={name})) for name in tested]
    return (*local, Arm("central", None, at_all_sites(1.06)), Arm("logistic", None, at_all_sites(0.7)))
