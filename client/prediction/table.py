"""The risks of all labelled patients of a hospital as a CSV: for a hospital's own validation, and for its own eyes."""

import csv
import io

from client.prediction.hospital import Hospital, sigmoid

_RISKS = ("risk", "risk_recalibrated", "low", "high")


def as_csv(hospital: Hospital) -> str:
    """One row a patient: identifier, part of the study, outcome, the model's risk, the recalibrated one with its interval
    (empty where there is none), and which model said so."""
    part_of = {int(place): part for part, members in hospital.cohort.parts.items() for place in members}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient", "part", "outcome", *_RISKS, "model", "protocol", "use"])
    for place, patient in enumerate(hospital.cohort.patients):
        logit = float(hospital.logits[place])
        fitted = hospital.recalibration
        local = None if isinstance(fitted, str) else fitted.risk(logit)
        recalibrated = ["", "", ""] if local is None else [f"{x:.6f}" for x in (local.value, local.low, local.high)]
        label = int(hospital.cohort.tensors.label[place])
        origin = [hospital.model.sha256[:16], hospital.model.protocol.sha256[:16], "research use only"]
        writer.writerow(
            [patient, part_of[place], label, f"{float(sigmoid(hospital.logits[place])):.6f}", *recalibrated, *origin]
        )
    return text.getvalue()
