"""How long the statistics of a large federation take: 40,000 test patients at each of five sites, 2,000 replicates."""

import resource
from time import perf_counter, process_time

import numpy as np
import pytest

from client.tasks.assessing import Scored, assess
from client.tasks.scoring import performance
from server.results import heterogeneity, scored
from shared_model import metrics
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Performance

pytestmark = pytest.mark.benchmark

PATIENTS, SITES = 40_000, 5
EVALUATION = Evaluation(thresholds=(0.1, 0.2, 0.3), prevalences=(0.1, 0.3), bootstrap=2000, histogram_bins=1000)


def draw(site: int, part: str) -> Scored:
    rng = np.random.default_rng([site, len(part)])
    logit = rng.normal(-1.0 + 0.1 * site, 1.2, PATIENTS)
    labels = (rng.random(PATIENTS) < 1 / (1 + np.exp(-logit))).astype(float)
    return Scored(1 / (1 + np.exp(-(0.3 + 1.2 * logit))), labels)


def whole(site: int) -> Performance:
    """Everything that a site says, with subgroups and strata, and with both local corrections."""
    test, tune = draw(site, "test"), draw(site, "tune")
    third = np.arange(PATIENTS) % 3
    assessment = assess(
        test,
        tune,
        evaluation=EVALUATION,
        subgroups={"age": {f"band {band}": third == band for band in range(3)}},
        modalities={"doppler": third == 0},
        minimum_cell=5,
        seed=site,
    )
    light = performance(test.scores, test.labels, evaluation=EVALUATION)
    return Performance(light.histogram, light.sums, light.thresholds, light.auc, assessment)


def test_statistics_of_a_large_federation(capsys):
    started, cpu = perf_counter(), process_time()
    performances = {f"site {site}": whole(site) for site in range(SITES)}
    at_sites = perf_counter() - started
    common = metrics.thresholds_by_rule(metrics.pool(performances.values()).histogram, EVALUATION.sensitivities)
    sites = {name: scored.at_site(found, evaluation=EVALUATION, common=common) for name, found in performances.items()}
    pooled = scored.over_sites(list(performances.values()), evaluation=EVALUATION, common=common)
    between = heterogeneity.heterogeneity(sites), heterogeneity.site_pairs(sites), heterogeneity.ranking(sites)
    wall, used = perf_counter() - started, process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        print(
            f"\n{SITES} sites of {PATIENTS:,} test and as many tuning patients, {EVALUATION.bootstrap:,} replicates: "
            f"{wall:.1f} s ({at_sites:.1f} s at the sites), {used:.1f} s of CPU, peak {peak:.0f} MiB"
        )
    assert pooled["patients"] == SITES * PATIENTS
    assert all(value is not None for site in sites.values() for value in site["metrics"].values())
    assert between[0]["auc"]["k"] == SITES
