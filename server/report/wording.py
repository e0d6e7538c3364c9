"""Numbers and findings in words, for a reader with one minute."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

Json = dict[str, Any]

ADVISED_PER_CLASS = 100  # events, and non-events, that an external validation should have (Collins et al. 2016)
_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def decimal(number: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, or a dash where there is none."""
    if number is None:
        return "–"
    return f"{number:z.{digits}f}".replace("-", "−")  # z: what rounds to zero has no sign


def interval(number: Json | None, digits: int = 2) -> str:
    """``0.82 (0.70 to 0.90)``."""
    if number is None:
        return "–"
    if number["low"] is None or number["high"] is None:
        return decimal(number["value"], digits)
    return f"{decimal(number['value'], digits)} ({decimal(number['low'], digits)} to {decimal(number['high'], digits)})"


def percent(share: float | None) -> str:
    """``83%``."""
    return "–" if share is None else f"{100 * share:.0f}%"


def percent_interval(number: Json | None) -> str:
    """``83% (66 to 93)``."""
    if number is None:
        return "–"
    return f"{percent(number['value'])} ({100 * number['low']:.0f} to {100 * number['high']:.0f})"


def spelled(number: int) -> str:
    """``seven``, ``12``, ``1,204``."""
    return _SMALL_NUMBERS[number] if number < len(_SMALL_NUMBERS) else f"{number:,}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``seven sites``, ``1,204 patients``."""
    return f"{spelled(number)} {noun if number == 1 else plural or noun + 's'}"


def capital(text: str) -> str:
    """``Text`` for ``text``."""
    return text[:1].upper() + text[1:]


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def ranges(numbers: Iterable[int]) -> str:
    """``1–3, 7``."""
    ordered = sorted(set(numbers))
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1), len(ordered)]
    runs = [ordered[a:b] for a, b in pairwise(breaks) if a < b]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def duration(seconds: float) -> str:
    """``4 min 41 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count_of_bytes: float) -> str:
    """``183.0 MB``, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if count_of_bytes < 1000:
            return f"{count_of_bytes:.0f} {unit}" if unit == "B" else f"{count_of_bytes:.1f} {unit}"
        count_of_bytes /= 1000
    return f"{count_of_bytes:.1f} GB"


def left_out(cohort: Json) -> int | None:
    """Patients that a site left out of the study, or None where it does not tell how many it found."""
    return None if cohort["found"] is None else sum(cohort["excluded"].values())


def why_not(site: Json, metric: str) -> str:
    """The reason why ``metric`` is not estimable there, or nothing."""
    return next((item["why"] for item in site["not_estimable"] if item["metric"] == metric), "")


def summary(document: Json) -> list[str]:
    """What was found, in full sentences; a sentence is left out where there is nothing to say."""
    sentences = (
        _who(document),
        _discrimination(document),
        _between_sites(document),
        _against_others(document),
        _calibration(document),
        _at_threshold(document),
        _how_sure(document),
        _participation(document),
    )
    return [sentence for sentence in sentences if sentence]


def _who(document: Json) -> str:
    sites, pooled, outcome = document["sites"], document["pooled"], document["study"]["outcome"]
    if not pooled["patients"]:
        return f"{count(len(sites), 'site').capitalize()} enrolled. No site gave a test result."
    tested = "all of them" if pooled["sites"] == len(sites) else f"{spelled(pooled['sites'])} of them"
    return (
        f"{count(len(sites), 'site').capitalize()} enrolled; the final model was tested at {tested}, on "
        f"{count(pooled['patients'], 'patient')} kept apart from training, {pooled['events']:,} of them with {outcome}."
    )


def _discrimination(document: Json) -> str:
    auc = document["pooled"]["metrics"]["auc"]
    if auc is None:
        why = why_not(document["pooled"], "auc")
        return f"The AUC over all sites is not estimable ({why})." if document["pooled"]["patients"] else ""
    pairs = round(100 * auc["value"])
    return (
        "Over all these patients together the federated model ranks a patient with the outcome above one without it in "
        f"{pairs} of 100 pairs: AUC {decimal(auc['value'])}, 95% interval {decimal(auc['low'])} to {decimal(auc['high'])}."
    )


def _between_sites(document: Json) -> str:
    estimable = {name: site["metrics"]["auc"]["value"] for name, site in document["sites"].items() if site["metrics"]["auc"]}
    others = [f"{name} ({why_not(site, 'auc')})" for name, site in document["sites"].items() if name not in estimable]
    left_out = f" It is not estimable at {listing(others)}." if others and estimable else ""
    if len(estimable) < 2:
        return left_out.strip()
    worst, best = min(estimable, key=lambda name: estimable[name]), max(estimable, key=lambda name: estimable[name])
    return (
        f"Site by site the AUC runs from {decimal(estimable[worst])} at {worst} to {decimal(estimable[best])} at {best}."
        + left_out
    )


def best_local(document: Json) -> tuple[str, Json] | None:
    """The site whose own model does best on the patients of all sites, and that model's pooled AUC."""
    known = {
        name: site["local_only"]["pooled"]["metrics"]["auc"]
        for name, site in document["sites"].items()
        if "local_only" in site and site["local_only"]["pooled"]["metrics"]["auc"]
    }
    if not known:
        return None
    name = max(known, key=lambda site: known[site]["value"])
    return name, known[name]


def _against_others(document: Json) -> str:
    ours = document["pooled"]["metrics"]["auc"]
    if ours is None:
        return ""
    findings = []
    if best := best_local(document):
        name, theirs = best
        findings.append(
            f"The best model trained at one site alone ({name}) reaches {decimal(theirs['value'])} on the same patients, "
            f"{_relation(ours['value'] - theirs['value'])} the federated model"
        )
    for kind, words in (("central", "training on all patients in one place"), ("logistic", "a logistic regression on tables")):
        auc = document[kind]["metrics"]["auc"] if kind in document else None
        if auc:
            findings.append(
                f"{words} reaches {decimal(auc['value'])}, {_relation(ours['value'] - auc['value'])} the federated model"
            )
    text = "; ".join(findings)
    return f"{capital(text)}." if text else ""


def _relation(ours_less_theirs: float) -> str:
    if abs(ours_less_theirs) < 0.005:
        return "level with"
    return f"{decimal(abs(ours_less_theirs))} {'below' if ours_less_theirs > 0 else 'above'}"


def _calibration(document: Json) -> str:
    ratio, events = document["pooled"]["metrics"]["oe_ratio"], document["pooled"]["events"]
    if ratio is None or not events:
        return ""
    if ratio["low"] <= 1.0 <= ratio["high"]:
        verdict = "no sign that it predicts too many or too few"
    else:
        verdict = "it predicts too few events" if ratio["value"] > 1.0 else "it predicts too many events"
    return (
        f"Where the model expects {decimal(events / ratio['value'], 1)} events, {events:,} were seen (observed/expected "
        f"{interval(ratio)}): {verdict}."
    )


def _at_threshold(document: Json) -> str:
    row = next(iter(document["pooled"]["thresholds"]), None)
    if row is None or row["sensitivity"] is None or row["specificity"] is None:
        return ""
    return (
        f"Calling a patient positive from a predicted probability of {row['threshold']:g}, it finds "
        f"{percent_interval(row['sensitivity'])} of those with the outcome and clears {percent_interval(row['specificity'])} "
        "of the others."
    )


def _how_sure(document: Json) -> str:
    patients, events = document["pooled"]["patients"], document["pooled"]["events"]
    fewest = min(events, patients - events)
    if not patients or fewest >= ADVISED_PER_CLASS:
        return ""
    return (
        f"With {count(events, 'event')} among {count(patients, 'test patient')} these numbers are uncertain: at least "
        f"{ADVISED_PER_CLASS} events and {ADVISED_PER_CLASS} patients without are advised for a validation."
    )


def _participation(document: Json) -> str:
    rounds = [row["round"] for row in document["rounds"]]
    missed = {name: sorted(set(rounds) - set(site["participated"])) for name, site in document["sites"].items()}
    if not any(missed.values()):
        return f"Every site took part in {'every round' if len(rounds) > 1 else 'the round'}." if rounds else ""
    never = [name for name, gap in missed.items() if len(gap) == len(rounds)]
    some = [
        f"{name} missed {'rounds' if len(gap) > 1 else 'round'} {ranges(gap)}"
        for name, gap in missed.items()
        if gap and name not in never
    ]
    return "; ".join([f"{listing(never)} took part in no round", *some] if never else some) + "."
