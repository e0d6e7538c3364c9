"""The results document: everything that ``results.json`` says of a run, and all that the report is drawn from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.records import NO_DESIGN, Arm, Design, RoundRecord, RunRecord
from server.results import heterogeneity, paired, privacy, scored
from server.results.case_mix import adequacy, case_mix
from server.results.design import design_of
from server.results.explained import explanation
from server.results.readings import comparators
from server.results.scorer import Scorer
from server.results.strata import strata
from shared_model.disclosure import performance_on
from shared_model.explanation_layout import network_modalities
from shared_model.messages import DescribeReply
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CategoryCounts, Moments, Performance, ScoreHistogram, ScoreSums, ThresholdCounts

Json = dict[str, Any]
SCHEMA_VERSION = 1
SEQUENTIAL_ENGINE = "in-process"  # its sites compute one after another


def assemble(record: RunRecord, arms: Sequence[Arm] = (), design: Design = NO_DESIGN) -> Json:
    """The document of ``schema.json``; ``arms`` are the comparators of a simulation with baselines, ``design`` its studies
    without a site and its folds. Sites that only evaluated stand by themselves, and are not in what is pooled."""
    external = record.protocol.evaluation.external
    everywhere = {name: reply.parts["test"] for name, reply in record.evaluations.items() if "test" in reply.parts}
    tested = {name: performance for name, performance in everywhere.items() if name not in external}
    compared = {name: reply for name, reply in record.comparisons.items() if name not in external}
    scorer = Scorer.of(record)
    pooled = scorer.over_sites(list(tested.values()), together=record.summed.get("test"))
    sites = {name: _site(name, record, arms, scorer) for name in record.enrolled}
    partners = {name: site for name, site in sites.items() if name not in external}
    document: Json = {
        "schema_version": SCHEMA_VERSION,
        "study": _study(record.protocol),
        "protocol": record.protocol.model_dump(mode="json"),
        "run": _run(record),
        "sites": sites,
        "pooled": pooled,
        "heterogeneity": heterogeneity.heterogeneity(partners),
        "site_pairs": heterogeneity.site_pairs(partners),
        "ranking": heterogeneity.ranking(partners),
    }
    for kind in ("central", "logistic"):
        for arm in arms:
            if arm.kind == kind:
                document[kind] = scorer.over_sites([test for name, test in arm.test.items() if name not in external])
                document[f"federated_vs_{kind}"] = scored.difference(pooled, document[kind])
    if (explained := explanation(record, arms)) is not None:
        document["explanation"] = explained
    return {
        **document,
        "design": design_of(record, design),
        "arms": paired.arms(compared),
        "comparisons": paired.comparisons(compared),
        "comparators": comparators(compared, record.protocol),
        "strata": strata(record, everywhere, external=external),
        "case_mix": case_mix(record),
        "sample_size": adequacy(record),
        "privacy": {"secure_sum": privacy.secure_sum(record)},
        "rounds": [_round(record_of_round) for record_of_round in record.rounds],
        "timing": _timing(record),
        "traffic": {"bytes_down": record.traffic.bytes_down, "bytes_up": record.traffic.bytes_up},
    }


def _study(protocol: StudyProtocol) -> Json:
    federation, evaluation = protocol.federation, protocol.evaluation
    return {
        "name": protocol.study.name,
        "title": protocol.study.title,
        "outcome": protocol.study.outcome,
        "synthetic": protocol.study.synthetic,
        "protocol_sha256": protocol.sha256,
        "network": protocol.network.kind,
        "modalities": list(network_modalities(protocol)),
        "client_rule": federation.client_rule.kind,
        "aggregation": federation.aggregation.kind,
        "server_optimizer": federation.server_optimizer.kind,
        "personal": list(federation.personal),
        "normalization": federation.normalization,
        "selection": evaluation.selection,
        "histogram_bins": evaluation.histogram_bins,
        "thresholds": list(evaluation.thresholds),
        "prevalences": list(evaluation.prevalences),
        "bootstrap": evaluation.bootstrap,
    }


def _run(record: RunRecord) -> Json:
    return {
        "id": record.run,
        "engine": record.engine,
        "rounds": len(record.rounds),
        "rounds_planned": record.protocol.federation.rounds,
        "best_round": record.best_round,
        "stopped": record.stopped,
        "seed": record.seed,
        "started": record.started,
        "finished": record.finished,
        "versions": dict(record.versions),
    }


def _site(name: str, record: RunRecord, arms: Sequence[Arm], scorer: Scorer) -> Json:
    description, reply = record.descriptions.get(name), record.evaluations.get(name)
    test = reply.parts.get("test") if reply else None
    absence = _absence(name, record)
    result = scorer.at_site(test or _nobody(record.protocol), absence=absence)
    site: Json = {
        "n": _of_parts(description, "patients"),
        "events": _of_parts(description, "positives"),
        "cohort": _cohort(description, record.protocol) if description else None,
        "participated": [row.round for row in record.rounds if name in row.sites],
        "failures": [
            {"phase": failure.phase, "round": failure.round, "code": failure.code.value, "reason": failure.reason}
            for failure in record.failures
            if failure.site == name
        ],
        "privacy": privacy.differential(name, record),
        "patients_tested": result["patients"],
        "events_tested": result["events"],
        **{key: value for key, value in result.items() if key not in {"patients", "events"}},
        "suppressed": [*_suppressed(name, record), *result["suppressed"]],
    }
    if reply and "test" in reply.personal:
        site["personal"] = scorer.at_site(reply.personal["test"])
    for arm in arms:
        if arm.kind == "local" and arm.site == name:
            own = scorer.at_site(arm.test.get(name, _nobody(record.protocol)), absence=absence)
            site["local_only"] = {**own, "pooled": scorer.over_sites(list(arm.test.values()))}
        elif arm.kind in {"central", "logistic"} and name in arm.test:
            site[arm.kind] = scorer.at_site(arm.test[name])
    return site


def _nobody(protocol: StudyProtocol) -> Performance:
    thresholds = tuple(ThresholdCounts(threshold) for threshold in protocol.evaluation.thresholds)
    return Performance(ScoreHistogram.zero(protocol.evaluation.histogram_bins), ScoreSums(), thresholds)


def _absence(name: str, record: RunRecord) -> str:
    """Why a site has no result, for its reader; asked only where it has none."""
    failed = [failure for failure in record.failures if failure.site == name and failure.phase in {"describe", "evaluate"}]
    if name in record.evaluations:
        suppressed = {item.what: item.why for item in record.evaluations[name].suppressed}
        why = suppressed.get(performance_on("test"))
        return f"suppressed: {why.value}" if why else "no test patients"
    if failed:
        return f"no answer that counts: {failed[-1].code.value.replace('_', ' ')}"
    return "the model was not evaluated here"


def _suppressed(name: str, record: RunRecord) -> list[Json]:
    """What the site left out of any of its replies, each thing once."""
    replies = [record.descriptions.get(name), *(row.sites.get(name) for row in record.rounds), record.evaluations.get(name)]
    items = dict.fromkeys(item for reply in replies if reply for item in reply.suppressed)
    return [{"what": item.what, "why": item.why.value} for item in items]


def _of_parts(description: DescribeReply | None, count: str) -> Json | None:
    if description is None:
        return None
    parts = description.parts
    return {part: getattr(parts[part], count) if part in parts else 0 for part in ("train", "tune", "test")}


def _cohort(description: DescribeReply, protocol: StudyProtocol) -> Json:
    patients = sum(part.patients for part in description.parts.values())
    flow = description.flow
    return {
        "found": flow.found,
        "excluded": dict(flow.excluded),
        "images_found": flow.images_found,
        "images_unusable": flow.images_unusable,
        "modalities": {name: _share(description.modalities.get(name, 0), patients) for name in protocol.modalities},
        "missing": {name: _share(description.missing.get(name, 0), patients) for name in protocol.variables},
        "variables": {
            name: _numeric(description.moments.get(name, Moments()), log=variable.log, unit=variable.unit)
            if variable.kind == "numeric"
            else _categorical(description.categories, name, variable.categories)
            for name, variable in protocol.variables.items()
        },
    }


def _share(count: int | None, patients: int) -> float | None:
    return count / patients if patients and count is not None else None


def _numeric(moments: Moments, *, log: bool, unit: str | None) -> Json:
    """Mean and standard deviation of training patients; of a variable taken as logarithm, the geometric ones."""
    mean = moments.mean if moments.count else None
    spread = moments.standard_deviation if moments.count > 1 else None
    if log:
        mean, spread = (None if x is None else math.exp(x) for x in (mean, spread))
    return {"kind": "numeric", "unit": unit, "geometric": log, "patients": moments.count, "mean": mean, "spread": spread}


def _categorical(counts: Mapping[str, CategoryCounts], name: str, categories: Sequence[str]) -> Json:
    patients = counts[name].counts if name in counts else (0,) * len(categories)
    shares = {category: _share(count, sum(patients)) for category, count in zip(categories, patients, strict=True)}
    return {"kind": "categorical", "patients": sum(patients), "shares": shares}


def _round(row: RoundRecord) -> Json:
    """``selection`` judges the model that entered the round, ``loss`` is of training in it (weighted by patients). Of a secure
    sum, loss and norm are known of all sites together only."""
    told = [(site.loss, site.patients) for site in row.sites.values() if site.loss is not None]
    patients = sum(patients for _, patients in told)
    return {
        "round": row.round,
        "selection": row.selection,
        "loss": row.summed.loss if row.summed else sum(x * n for x, n in told) / patients if patients else None,
        "update_norm": row.summed.update_norm if row.summed else None,
        "wall_s": row.wall_s,
        "sites": {
            name: {
                "patients": site.patients,
                "steps": site.steps,
                "loss": site.loss,
                "seconds": site.seconds,
                "update_norm": site.update_norm,
                "tune_auc": site.tune.auc.value if site.tune and site.tune.auc else None,
            }
            for name, site in row.sites.items()
        },
    }


def _timing(record: RunRecord) -> Json:
    """``overhead_s`` is the federation's time in which no site computed: where sites compute side by side, all but the
    slowest site of each step."""
    steps = [
        [reply.seconds for reply in record.descriptions.values()],
        *([site.seconds for site in row.sites.values()] for row in record.rounds),
        [reply.seconds for reply in record.evaluations.values()],
        *([reply.seconds for reply in replies.values()] for replies in (record.explanations, *record.drift.values())),
    ]
    slowest = sum(max(step, default=0.0) for step in steps)
    busy = record.site_compute_s if record.engine == SEQUENTIAL_ENGINE else slowest
    wall = sum(record.phases.values())
    return {
        "wall_s": wall,
        "site_compute_s": record.site_compute_s,
        "overhead_s": max(0.0, wall - busy),
        "phases": dict(record.phases),
    }
