"""What a card says of one patient, before it is laid out."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from client.prediction import overlay
from client.prediction.hospital import USUAL, Hospital, SimilarRisk, picture_look, shown_values, sigmoid
from client.prediction.patient import Patient
from client.prediction.recalibration import Risk
from client.prediction.words import SLIGHT, Contribution
from shared_model.attribution import integrated_gradients, modality_shapley, picture_map
from shared_model.attribution.variables import has_table
from shared_model.inputs import ABSENT, categorical_names, numeric_names
from shared_model.network import MultimodalNetwork
from shared_model.summaries import Estimate

SHOWN = 8  # findings on a card; the others are told together


@dataclass(frozen=True)
class View:
    """One picture: as it is, and with what the model reacts to over it, as data URIs. ``outlined``: with the lesion."""

    name: str
    picture: str
    reaction: str
    outlined: bool


@dataclass(frozen=True)
class Card:
    """``risk`` of the model as the study left it; ``local`` recalibrated at this hospital, None where ``why_not_local``."""

    patient: str
    hospital: str
    risk: float
    local: Risk | None
    why_not_local: str
    slope: float | None
    fitted_on: int
    similar: SimilarRisk | None
    few: int  # below so many of a cell of few, no number is shown
    auc: Estimate | None
    tested: int
    findings: tuple[Contribution, ...]
    others: float
    average: float
    modalities: tuple[Contribution, ...]
    nothing_known: float
    views: tuple[View, ...]
    strongest: float
    flags: tuple[str, ...]


def make_card(hospital: Hospital, patient: Patient) -> Card:
    """Everything that the card of ``patient`` at ``hospital`` says."""
    model = hospital.model
    with torch.no_grad():
        logit = float(model.network(patient.batch).double())
    fitted = hospital.recalibration
    found, average = _findings(hospital, patient)
    findings = [c for c in found if abs(c.logits) >= SLIGHT][:SHOWN]
    modalities, nothing = _modalities(hospital, patient)
    views, strongest = _views(hospital, patient)
    return Card(
        patient=patient.identifier,
        hospital=hospital.config.site.title or hospital.config.site.name,
        risk=float(sigmoid(np.array(logit))),
        local=None if isinstance(fitted, str) else fitted.risk(logit),
        why_not_local=fitted if isinstance(fitted, str) else "",
        slope=None if isinstance(fitted, str) else fitted.slope,
        fitted_on=0 if isinstance(fitted, str) else fitted.patients,
        similar=hospital.similar(logit, without=patient.identifier),
        few=hospital.config.policy.minimum_cell,
        auc=hospital.auc(),
        tested=len(hospital.tested),
        findings=_sized(findings),
        others=sum(c.logits for c in found if c not in findings),
        average=average,
        modalities=_sized(modalities),
        nothing_known=nothing,
        views=views,
        strongest=strongest,
        flags=(*_about_part(hospital, patient), *quality_flags(hospital, patient)),
    )


def _findings(hospital: Hospital, patient: Patient) -> tuple[list[Contribution], float]:
    """Contributions of variables, largest first, and the risk of the same pictures with average findings."""
    model = hospital.model
    if not has_table(model.network):
        return [], 0.0
    found = integrated_gradients(model.network, patient.batch, protocol=model.protocol)
    values = shown_values(model, patient.batch)
    all_ = [Contribution(name, values[name], float(logits)) for name, logits in zip(found.names, found.values[0], strict=True)]
    return sorted(all_, key=lambda c: -abs(c.logits)), float(sigmoid(found.reference)[0])


def _modalities(hospital: Hospital, patient: Patient) -> tuple[list[Contribution], float]:
    model = hospital.model
    found = modality_shapley(model.network, patient.batch, protocol=model.protocol)
    present = _present(hospital, patient)
    rows = [
        Contribution(name, "available" if there else "none", float(logits))
        for name, logits, there in zip(found.names, found.values[0], present, strict=True)
    ]
    return rows, float(sigmoid(found.reference)[0])


def _present(hospital: Hospital, patient: Patient) -> list[bool]:
    network = hospital.model.network
    if isinstance(network, MultimodalNetwork):
        return [bool(there) for there in network.present(patient.batch)[0]]
    return [True] * len(hospital.model.protocol.groups)


def _sized(rows: list[Contribution]) -> tuple[Contribution, ...]:
    largest = max((abs(c.logits) for c in rows), default=0.0) or 1.0
    return tuple(replace(c, width=abs(c.logits) / largest) for c in rows)


def _views(hospital: Hospital, patient: Patient) -> tuple[tuple[View, ...], float]:
    """Every picture with its occlusion map, on one scale."""
    network, images = hospital.model.network, hospital.model.protocol.images
    batch = patient.batch
    if images is None or not isinstance(network, MultimodalNetwork) or network.image_tokens is None:
        return (), 0.0
    reaction = picture_map(network, batch, "occlusion", direction=torch.ones(1))[0].double().numpy()  # [V, H, W]
    strongest, names, views = float(np.abs(reaction).max(initial=0.0)), list(images.views), []
    for slot, code in enumerate(batch.views[0].tolist()):
        if code != ABSENT:
            grey, outline = batch.images[0, slot, 0].double().numpy(), patient.outline[slot]
            over = overlay.overlaid(grey, reaction[slot], outline, strongest=strongest)
            views.append(View(names[code].replace("_", " "), overlay.plain(grey), over, bool(outline.any())))
    return tuple(views), strongest


def _about_part(hospital: Hospital, patient: Patient) -> list[str]:
    part = hospital.part_of(patient.identifier)
    if part == "train":
        return [
            "This patient was among those the model was trained on: the risk here is more fitting than it would be of others."
        ]
    if part == "tune":
        return ["This patient was among those by whom the model was chosen and recalibrated."]
    return []


def quality_flags(hospital: Hospital, patient: Patient) -> list[str]:
    """What about the inputs a reader should know: missing, out of range, unlike the hospital's training patients."""
    protocol, batch = hospital.model.protocol, patient.batch
    values = shown_values(hospital.model, batch)
    flags = [f"{_plain(n)} is outside the study's plausible range, so it counts as not measured." for n in patient.out_of_range]
    flags += [f"{_plain(n)} cannot be read: no number, or a code that site.toml does not know." for n in patient.unreadable]
    told = {*patient.out_of_range, *patient.unreadable}
    missing = [_plain(name) for name, value in values.items() if value is None and name not in told]
    if missing:
        flags.append(f"Not measured: {', '.join(missing)}.")
    for column, name in enumerate(numeric_names(protocol)):
        usual = hospital.usual_range(column)
        if batch.numeric_present[0, column] and usual and not usual[0] <= float(batch.numeric[0, column]) <= usual[1]:
            share = round(100 * (USUAL[1] - USUAL[0]))
            flags.append(
                f"{_plain(name)} ({values[name]}) is outside what {share} % of this hospital's training patients have."
            )
    for column, name in enumerate(categorical_names(protocol)):
        code = int(batch.categorical[0, column])
        if code != ABSENT and not hospital.has_category(column, code):
            flags.append(f"No training patient of this hospital had {_plain(name)} = {values[name]}.")
    return flags + _picture_flags(hospital, patient)


def _picture_flags(hospital: Hospital, patient: Patient) -> list[str]:
    images, batch = hospital.model.protocol.images, patient.batch
    network = hospital.model.network
    if images is None or not isinstance(network, MultimodalNetwork) or network.image_tokens is None:
        return []
    names = list(images.views)
    shown = {code for code in batch.views[0].tolist() if code != ABSENT}
    flags = [f"A picture cannot be used: {reason}." for reason in patient.unusable]
    absent = [name.replace("_", " ") for place, name in enumerate(names) if place not in shown]
    if absent and not shown:
        flags.append("There is no picture.")
    elif absent:
        flags.append(f"No picture of: {', '.join(absent)}.")
    usual = hospital.usual_pictures()
    for slot, code in enumerate(batch.views[0].tolist()):
        if code != ABSENT and usual is not None:
            look = picture_look(batch.images[0, slot, :1])[0]
            if (look < usual[0]).any() or (look > usual[1]).any():
                flags.append(f"{_plain(names[code])}: brightness or contrast is unlike this hospital's training pictures.")
    return flags


def _plain(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
