"""What late fusion learns of the demo's pictures and tables from 400 patients at each of four hospitals, against what is true.

``make slow`` runs it; with ``-s`` it prints the table of the README. What is wanted and was not reached is marked as such.
Everything is at the sizes of ``site_configs/demo``, which a CPU can train.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from client.synthetic.patients import IMAGE_FEATURES
from shared_model.attribution import Frozen, integrated_gradients, modality_shapley, picture_map
from shared_model.attribution.faithfulness import PictureGame, places, pointing
from shared_model.attribution.modalities import left_out
from shared_model.attribution.variables import variable_names
from shared_model.inputs import PatientBatch
from tests.learned import Hospitals, Learned, Where, demo_protocol, learn, multimodal, outlines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

Floats = NDArray[np.float64]
EXPLAINED, PICTURED = 100, 24  # of the fresh patients, evenly from all hospitals
MANY, MANY_ROUNDS = 1600, 14  # patients at each hospital, for explanations
SHOWN_BY = {"texture": ["bmode", "doppler"], "vascularity": ["doppler"]}
Train = Callable[[str, Where], Learned]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    return Hospitals.draw(tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def train(hospitals: Hospitals) -> Train:
    """Train a kind of study once, and print how it does."""
    demo = demo_protocol()
    assert demo.images is not None
    bmode = {name: view for name, view in demo.images.views.items() if name != "doppler"}
    protocols = {
        "everything": demo,
        "no Doppler": demo_protocol(images={"views": bmode}),
        "no pictures": demo_protocol(network={"kind": "logistic"}),
        "no variables": demo_protocol(network={"kind": "image_only"}),
    }
    own_heads = demo_protocol(federation={"personal": ("head",)})
    known: dict[tuple[str, Where], Learned] = {}

    def once(kind: str, where: Where) -> Learned:
        if (kind, where) not in known:
            name = where if kind == "everything" else f"{where} {kind}".replace(" ", "_")
            protocol = own_heads if (kind, where) == ("everything", "federated") else protocols[kind]
            seen = hospitals.without("doppler") if kind == "no Doppler" else hospitals
            known[kind, where] = learn(seen, protocol, where, name=name)
            oracle = roc_auc_score(hospitals.truth["label"], hospitals.truth["risk"])
            auc = known[kind, where].auc()
            print(f"\n{where}, {kind}: AUC {auc:.4f}, {(auc - 0.5) / (oracle - 0.5):.3f} of the oracle's {oracle:.4f}")
        return known[kind, where]

    return once


def test_fresh_patients_are_those_of_the_truth(hospitals: Hospitals, train: Train) -> None:
    np.testing.assert_array_equal(train("no pictures", "central").tensors.label.numpy(), hospitals.truth["label"])


def test_central_training_comes_near_to_the_oracle(hospitals: Hospitals, train: Train) -> None:
    oracle = roc_auc_score(hospitals.truth["label"], hospitals.truth["risk"])
    assert (train("everything", "central").auc() - 0.5) / (oracle - 0.5) >= 0.80


def test_federated_training_is_as_good_as_central(train: Train) -> None:
    """Where each hospital keeps a head of its own: one head for all would have to tell the hospitals, of which 14 to 52 % of
    the patients have metastasis, by their scanners, and each round of local training pulls it to the own share."""
    assert train("everything", "federated").auc() >= train("everything", "central").auc() - 0.02


@pytest.mark.parametrize(
    ("kind", "unseen"),
    [("no pictures", ["texture", "vascularity"]), ("no Doppler", ["vascularity"]), ("no variables", None)],
)
def test_what_is_taken_away_is_missed(kind: str, unseen: list[str] | None, hospitals: Hospitals, train: Train) -> None:
    """As the truth says: by the AUC that is lost where nobody could see it. Without Doppler, at the hospitals that have it."""
    truth = hospitals.truth
    parts = truth.filter(like="contribution_").columns
    hidden = [f"contribution_{name}" for name in unseen] if unseen is not None else [
        name for name in parts if name.removeprefix("contribution_") not in (*IMAGE_FEATURES, "intercept")
    ]  # fmt: skip
    chosen = truth["hospital"].isin(["maple", "cedar"]).to_numpy() if kind == "no Doppler" else np.ones(len(truth), np.bool_)
    label, logit = truth["label"].to_numpy()[chosen], truth["logit"].to_numpy()[chosen]
    true_loss = roc_auc_score(label, logit) - roc_auc_score(label, logit - truth[hidden].sum(axis=1).to_numpy()[chosen])
    loss = train("everything", "central").auc(chosen) - train(kind, "central").auc(chosen)
    print(f"{kind}: {loss:.4f} lost; nobody could lose less than {true_loss:.4f}")
    assert loss > 0.0


@pytest.fixture(scope="module")
def learned(train: Train) -> Learned:
    """The model of which explanations are asked: the one that has learned most."""
    return train("everything", "central")


def explained(learned: Learned, count: int) -> tuple[PatientBatch, NDArray[np.int64]]:
    rows = np.linspace(0, len(learned.tensors) - 1, count).astype(np.int64)
    return learned.tensors.batch(torch.from_numpy(rows)), rows


def true_contributions(truth: pd.DataFrame, names: tuple[str, ...]) -> Floats:
    """Of each variable, about its mean: ``[P, J]``; 0 of those that bear on nothing."""
    columns = [truth.get(f"contribution_{name}", pd.Series(0.0, truth.index)).to_numpy() for name in names]
    values = np.stack(columns, axis=1)
    return np.asarray(values - values.mean(axis=0))


@pytest.fixture(scope="module")
def thorough(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hospitals, Learned]:
    """What explanations come to where nothing hinders them: more patients; kinds of information that are often taken away in
    training, so that none leans on what another shows as well; and no TI-RADS, which ``consilium-site check`` warns of: it
    counts four of the other variables, and no patient tells its effect from theirs."""
    hospitals = Hospitals.draw(tmp_path_factory.mktemp("thorough"), patients=MANY).without("tirads")
    demo = demo_protocol(network={"modality_dropout": 0.4}, federation={"rounds": MANY_ROUNDS})
    variables = {name: variable for name, variable in demo.variables.items() if name != "tirads"}
    protocol = demo.model_copy(update={"variables": variables, "comparators": {}})
    learned = learn(hospitals, protocol, "central", name="thorough")
    print(f"\n4 x {MANY} patients: AUC {learned.auc():.4f}")
    return hospitals, learned


@pytest.mark.xfail(strict=True, reason="0.85 when it was last measured; see the README for why")
def test_contributions_of_variables_are_the_true_ones(hospitals: Hospitals, learned: Learned) -> None:
    assert agreement_of_variables(hospitals, learned) >= 0.9


def test_contributions_of_variables_are_the_true_ones_after_thorough_training(thorough: tuple[Hospitals, Learned]) -> None:
    assert agreement_of_variables(*thorough) >= 0.9


def agreement_of_variables(hospitals: Hospitals, learned: Learned) -> float:
    """Rank correlation with the true contributions, over patients and variables."""
    batch, rows = explained(learned, EXPLAINED)
    found = integrated_gradients(learned.network, batch, protocol=learned.protocol).values
    true = true_contributions(hospitals.truth, variable_names(learned.protocol))[rows]
    each = spearmanr(found.ravel(), true.ravel())[0]
    sizes = spearmanr(np.abs(found).mean(axis=0), np.abs(true).mean(axis=0))[0]
    print(f"\nvariables: rank correlation {each:.3f} over patients and variables, {sizes:.3f} of mean sizes")
    return float(each)


def test_pictures_and_tables_share_as_is_true(hospitals: Hospitals, learned: Learned) -> None:
    found = shares_of(hospitals, learned)
    pictures = [place for place, name in enumerate(multimodal(learned).modalities) if name in SHOWN_BY["texture"]]
    assert abs(found.shapley[pictures].sum() - found.true[pictures].sum()) <= 0.05


def test_shares_of_modalities_are_the_true_ones(hospitals: Hospitals, learned: Learned) -> None:
    found = shares_of(hospitals, learned)
    assert np.abs(found.shapley - found.true).max() <= 0.05
    assert np.abs(found.shapley - found.ablated).max() <= 0.05


def test_shares_of_modalities_are_those_of_ablation_after_thorough_training(thorough: tuple[Hospitals, Learned]) -> None:
    found = shares_of(*thorough)
    assert np.abs(found.shapley - found.ablated).max() <= 0.05


@pytest.mark.xfail(strict=True, reason="B-mode is 0.06 off: it also shows what the table states, and has learned to say so")
def test_shares_of_modalities_are_the_true_ones_after_thorough_training(thorough: tuple[Hospitals, Learned]) -> None:
    found = shares_of(*thorough)
    assert np.abs(found.shapley - found.true).max() <= 0.05


@dataclass(frozen=True)
class Shares:
    """Of each modality ``[A]``: by Shapley values, by leaving it out of the network, and in the true log odds."""

    shapley: Floats
    ablated: Floats
    true: Floats


def shares_of(hospitals: Hospitals, learned: Learned) -> Shares:
    batch, rows = explained(learned, EXPLAINED)
    frozen = Frozen.of(multimodal(learned), batch)
    shapley = shares(modality_shapley(learned.network, batch, protocol=learned.protocol, frozen=frozen).values)
    ablated, true = shares(left_out(frozen)), shares(true_modalities(hospitals, learned)[rows])
    print("\n" + "\n".join(
        f"{name:9} Shapley {one:.3f}, ablated {other:.3f}, true {third:.3f}"
        for name, one, other, third in zip(multimodal(learned).modalities, shapley, ablated, true, strict=True)
    ))  # fmt: skip
    return Shares(shapley, ablated, true)


def true_modalities(hospitals: Hospitals, learned: Learned) -> Floats:
    """Shapley values of the modalities for the true logit about its mean, ``[P, A]``: what it loses where a modality is not
    looked at. Only Doppler shows the flow. B-mode and Doppler both show the texture, in grey: it is lost where neither is
    looked at, so that each of those that a patient has got is worth an equal part of it."""
    truth, names = hospitals.truth, multimodal(learned).modalities
    with torch.no_grad():
        present = multimodal(learned).present(learned.tensors.batch(torch.arange(len(truth)))).double().numpy()
    shown_by = {name: [variable.group] for name, variable in learned.protocol.variables.items()} | SHOWN_BY
    values = np.zeros((len(truth), len(names)))
    for column in truth.filter(like="contribution_"):
        if modalities := shown_by.get(column.removeprefix("contribution_")):
            holders = present * np.isin(names, modalities)  # [P, A]
            part = (truth[column] - truth[column].mean()).to_numpy() / np.maximum(holders.sum(axis=1), 1.0)
            values += holders * part[:, None]
    return values


def shares(values: Floats) -> Floats:
    return np.asarray((np.abs(values) / np.abs(values).sum(axis=1, keepdims=True)).mean(axis=0))


def test_maps_point_to_lesions_and_deletion_beats_chance(hospitals: Hospitals, learned: Learned) -> None:
    check_maps(hospitals, learned)


def test_maps_point_to_lesions_and_deletion_beats_chance_after_thorough_training(thorough: tuple[Hospitals, Learned]) -> None:
    check_maps(*thorough)


def check_maps(hospitals: Hospitals, learned: Learned) -> None:
    """With occlusion, the method of ``consilium-site predict``; intervals of 95 % over patients."""
    batch, rows = explained(learned, PICTURED)
    network = multimodal(learned)
    game = PictureGame.of(network, batch)
    found = picture_map(network, batch, "occlusion", direction=game.direction)
    slots = learned.tensors.slots[torch.from_numpy(rows)]
    stored = outlines(hospitals, learned.protocol)
    outline = torch.zeros(*slots.shape, *stored.shape[1:], dtype=torch.bool)
    outline[slots >= 0] = stored[slots[slots >= 0]] > 127
    hit, area = pointing(found, outline)
    print(f"\npointing game: {np.nanmean(hit):.3f}, lesions are {np.nanmean(area):.3f} of the picture")
    deleted, chance = game.play(places(found)).deletion, game.play_at_random(seed=0).deletion
    own, random = interval(deleted), interval(chance)
    print(f"deletion: {own[0]:.3f} to {own[1]:.3f}, random order {random[0]:.3f} to {random[1]:.3f}")
    assert np.nanmean(hit) >= 2.0 * np.nanmean(area)
    assert own[1] < random[0]


def interval(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    reach = 1.96 * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean() - reach), float(known.mean() + reach)
