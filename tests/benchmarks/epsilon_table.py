"""What differential privacy costs in AUC: finished runs of one study at several epsilon, scored on patients of no training.

``python -m tests.benchmarks.epsilon_table RUN... --fresh SITE.toml...`` prints a table. Runs of one epsilon, with other seeds,
share a row. All patients of the fresh sites are scored; the difference is to the runs without differential privacy, with the
95 % interval of a bootstrap over patients (stratified by outcome), the trained models held.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from client.prediction.model_file import Model
from client.worker import open_site

REPLICATES, BATCH = 2000, 250


def main() -> None:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--fresh", nargs="+", type=Path, required=True)
    arguments = parser.parse_args()
    scores, labels = scored(arguments.runs, arguments.fresh)
    print(f"{len(labels)} fresh patients, {int(labels.sum())} positive\n")
    print("| epsilon | runs | AUC | of each run | difference |\n|---|---|---|---|---|")
    for row in rows(scores, labels):
        print(row)


def scored(runs: list[Path], sites: list[Path]) -> tuple[dict[float, NDArray[np.float64]], NDArray[np.float64]]:
    """Logits ``[runs, patients]`` by epsilon, and labels ``[patients]``."""
    found: dict[float, list[NDArray[np.float64]]] = defaultdict(list)
    labels: NDArray[np.float64] = np.zeros(0)
    with tempfile.TemporaryDirectory() as state:
        workers = [open_site(site, state=Path(state)) for site in sites]
        for run in runs:
            model = Model.read(run / "models" / "best.safetensors")
            dp = model.protocol.privacy.dp
            logits = []
            with torch.inference_mode():
                for worker in workers:
                    data = worker.cohort(model.protocol).tensors
                    logits += [model.network(data.batch(part)) for part in torch.split(torch.arange(len(data)), BATCH)]
            found[dp.epsilon if dp else np.inf].append(torch.cat(logits).double().numpy())
            labels = torch.cat([worker.cohort(model.protocol).tensors.label for worker in workers]).double().numpy()
    return {epsilon: np.stack(found[epsilon]) for epsilon in sorted(found, reverse=True)}, labels


def rows(scores: dict[float, NDArray[np.float64]], labels: NDArray[np.float64]) -> list[str]:
    """Lines of the table."""
    generator = np.random.default_rng(0)
    groups = [np.flatnonzero(labels == outcome) for outcome in (0.0, 1.0)]
    draws = [np.concatenate([generator.choice(group, len(group)) for group in groups]) for _ in range(REPLICATES)]
    means = {e: np.array([np.mean(aucs(of[:, draw], labels[draw])) for draw in draws]) for e, of in scores.items()}
    without = means.get(np.inf)
    lines = []
    for epsilon, of in scores.items():
        each = aucs(of, labels)
        low, high = np.quantile(means[epsilon], [0.025, 0.975])
        told = f"{each.mean():.3f} ({low:.3f} to {high:.3f})"
        apart = ""
        if without is not None and np.isfinite(epsilon):
            low, high = np.quantile(means[epsilon] - without, [0.025, 0.975])
            apart = f"{each.mean() - aucs(scores[np.inf], labels).mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {epsilon:g} | {len(each)} | {told} | {', '.join(f'{auc:.3f}' for auc in each)} | {apart} |")
    return lines


def aucs(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC of each row of ``scores`` ``[runs, patients]``."""
    positive = labels == 1.0
    ranks = rankdata(scores, axis=1)[:, positive].sum(axis=1)
    count = int(positive.sum())
    return np.asarray((ranks - count * (count + 1) / 2.0) / (count * (len(labels) - count)))


if __name__ == "__main__":
    main()
