"""What the software can say for an item of a reporting checklist: a sentence, and the section of the page that shows it.

Each function takes the document and returns ``(sentence, anchor)``, or None where this run has no answer.
"""

from typing import Any

from server.report.wording import ADVISED_PER_CLASS, capital, count, listing

Json = dict[str, Any]
Filled = tuple[str, str] | None

_MISSING = {
    "logistic": "Put at the mean of the training patients",
    "late_fusion": "Values put at the mean of the training patients, pictures masked",
}


def title(document: Json) -> Filled:
    """The title."""
    return f"“{document['study']['title']}”; add that the model was trained by machine learning at several sites.", ""


def objective(document: Json) -> Filled:
    """Aims."""
    tested = "developed and evaluated" if document["pooled"]["patients"] else "developed"
    return f"A model of {document['study']['outcome']} was {tested}.", "methods"


def sources(document: Json) -> Filled:
    """Where the data come from."""
    return f"Records of {count(len(document['sites']), 'site')}: {listing(list(document['sites']))}.", "cohorts"


def setting(document: Json) -> Filled:
    """Centres."""
    return f"{count(len(document['sites']), 'site').capitalize()}.", "cohorts"


def eligibility(document: Json) -> Filled:
    """Who is in and who is out."""
    if not any(site["cohort"] for site in document["sites"].values()):
        return None
    return "Who was left out, and why, is counted by site.", "cohorts"


def preparation(document: Json) -> Filled:
    """Preprocessing."""
    pictures = ", pictures by one procedure for all sites" if document["protocol"].get("images") else ""
    return f"Units and codes were converted by each site's configuration, implausible values set missing{pictures}.", "methods"


def outcome(document: Json) -> Filled:
    """The outcome."""
    return f"{capital(document['study']['outcome'])}.", "methods"


def predictors(document: Json) -> Filled:
    """Inputs."""
    variables = document["protocol"]["variables"]
    words = f"{count(len(variables), 'variable')}" if variables else "no variables"
    pictures = " and pictures" if document["protocol"].get("images") else ""
    return f"{words.capitalize()}{pictures}, with units, ranges, categories and scaling.", "methods"


def sample_size(document: Json) -> Filled:
    """Whether the test patients are many enough."""
    patients, events = document["pooled"]["patients"], document["pooled"]["events"]
    if not patients:
        return None
    enough = "as many as" if min(events, patients - events) >= ADVISED_PER_CLASS else "fewer than"
    return (
        f"{patients:,} test patients, {events:,} with the outcome: {enough} the {ADVISED_PER_CLASS} of each class advised "
        "for a "
        "validation.",
        "sites",
    )


def missing(document: Json) -> Filled:
    """Missing values."""
    how = _MISSING.get(document["protocol"]["network"]["kind"], "Masked, not imputed")
    return f"{how}; shares by variable and site are tabulated.", "cohorts"


def partitions(document: Json) -> Filled:
    """Parts of the data."""
    return "Training, tuning and test patients are disjoint, by patient, at each site.", "methods"


def model(document: Json) -> Filled:
    """The model."""
    return "Network, initial values, training and federation are stated.", "methods"


def training(document: Json) -> Filled:
    """Training."""
    return "Optimiser, rates, batches, augmentation and rounds are stated.", "methods"


def selection(document: Json) -> Filled:
    """How the round was chosen."""
    return f"The model after round {document['run']['best_round']}, chosen on tuning patients.", "course"


def heterogeneity(document: Json) -> Filled:
    """Differences between centres."""
    tested = sum(site["metrics"].get("auc") is not None for site in document["sites"].values())
    if tested < 2:
        return None
    return (
        f"Every measure is given for each of {count(tested, 'site')}, and summarised between sites where that can be done.",
        "between",
    )


def measures(document: Json) -> Filled:
    """Measures of performance."""
    return "AUC, calibration, Brier score, threshold measures and net benefit, each with its estimator.", "methods"


def predictions(document: Json) -> Filled:
    """From parameters to a prediction."""
    return "models/best.safetensors holds the parameters, the scaling and the protocol from which a prediction follows.", "card"


def imbalance(document: Json) -> Filled:
    """Class imbalance."""
    weighted = document["protocol"]["training"]["class_weighting"] == "balanced"
    return ("Classes were weighted to count equally; see calibration." if weighted else "Classes were not weighted."), "methods"


def output(document: Json) -> Filled:
    """Probability and thresholds."""
    thresholds = [f"{threshold:g}" for threshold in document["study"]["thresholds"]]
    return "A probability" + (
        f"; classified at {listing(thresholds)}, fixed in the protocol." if thresholds else "."
    ), "thresholds"


def development_and_evaluation(document: Json) -> Filled:
    """Training beside test data."""
    return "Training and test patients are of the same sites, split at random or as each site's configuration says.", "cohorts"


def protocol(document: Json) -> Filled:
    """The protocol."""
    return f"protocol.json, SHA-256 {document['study']['protocol_sha256'][:12]}…, fixed before the run.", "provenance"


def code(document: Json) -> Filled:
    """Software."""
    return f"Consilium {document['run']['versions'].get('consilium', '')}, Apache-2.0; versions are listed.", "provenance"


def flow(document: Json) -> Filled:
    """Flow of patients."""
    return eligibility(document) and ("Flow from each site's records to the parts, with events.", "cohorts")


def characteristics(document: Json) -> Filled:
    """Table 1."""
    return eligibility(document) and ("Variables by site with missingness.", "cohorts")


def shift(document: Json) -> Filled:
    """Case mix."""
    if not document["case_mix"]["variables"]:
        return None
    return "Standardised differences between each site's patients and the others'.", "casemix"


def numbers(document: Json) -> Filled:
    """Counts."""
    return "Patients and events stand beside every result.", "sites"


def specification(document: Json) -> Filled:
    """The whole model."""
    return "models/best.safetensors and protocol.json together are the whole model.", "card"


def performance(document: Json) -> Filled:
    """Results."""
    return ("At each site and over all, with 95% intervals.", "sites") if document["pooled"]["patients"] else None


def updating(document: Json) -> Filled:
    """Recalibration."""
    corrected = [
        name
        for name, site in document["sites"].items()
        if site["recalibrated"]["logistic"] or site["recalibrated"]["intercept"]
    ]
    if not corrected:
        return None
    return f"Corrected on tuning patients at {count(len(corrected), 'site')}, before and after on test patients.", "calibration"


def fairness(document: Json) -> Filled:
    """Subgroups."""
    groups = list(
        dict.fromkeys(group["variable"].replace("_", " ") for site in document["sites"].values() for group in site["subgroups"])
    )
    return (f"Performance by {listing(groups)} at each site.", "subgroups") if groups else None


def limitations(document: Json) -> Filled:
    """Limits."""
    return "What limits these numbers, as far as the software can tell.", "limits"


def missing_in_use(document: Json) -> Filled:
    """Missing inputs in use."""
    return "A missing variable, picture or modality is masked, as in training.", "methods"


def deidentification(document: Json) -> Filled:
    """What leaves a site."""
    return "No patient's record left a site.", "privacy"


def robustness(document: Json) -> Filled:
    """Robustness."""
    strata = any(group["metrics"] for site in document["sites"].values() for group in site["missing_modality"])
    return ("Performance of patients with and without each modality.", "subgroups") if strata else None


def explanation(document: Json) -> Filled:
    """Explanations."""
    return (
        ("What drives the predictions, with checks of the explanation itself.", "explanation")
        if document.get("explanation")
        else None
    )


def external(document: Json) -> Filled:
    """External testing."""
    design = document["design"]
    if not (design["external"] or design["left_out"]):
        return None
    return f"{capital(design['kind'])}: the model at sites that it was not trained on.", "leftout"
