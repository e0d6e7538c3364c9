"""Exporters to the trackers that a center may already use. Both are optional, and write to local files only."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared_model.errors import ConfigurationError, Fault

Json = dict[str, Any]


def to_mlflow(document: Json, run: Path, out: Path) -> str:
    """Add the run to the MLflow store ``out/mlruns``, under the experiment of its study; returns what to look at.

    The protocol becomes parameters, the rounds steps of metrics, and the results (with ``results.json`` and ``report.html`` as
    artifacts) final metrics.

    Raises:
        ConfigurationError: MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the database store would need far more packages
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise _missing("mlflow-skinny") from None
    from mlflow.entities import Metric, Param, RunTag

    store = out.resolve()
    store.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=_store_uri(store))
    name = document["study"]["name"]
    experiment = client.get_experiment_by_name(name)
    identifier = experiment.experiment_id if experiment else client.create_experiment(name, (store / "artifacts").as_uri())
    started = client.create_run(identifier, run_name=document["run"]["id"]).info.run_id
    parameters = list(_parameters(document["protocol"]))
    scalars = [Metric(key, value, 0, step) for key, step, value in _scalars(document)]
    tags = [RunTag("protocol_sha256", document["study"]["protocol_sha256"]), RunTag("outcome", document["study"]["outcome"])]
    for start in range(0, max(len(parameters), 1), 100):  # the API takes so many at a time
        client.log_batch(started, params=[Param(key, value) for key, value in parameters[start : start + 100]], tags=tags)
    for start in range(0, len(scalars), 1000):
        client.log_batch(started, metrics=scalars[start : start + 1000])
    for file in ("results.json", "report.html"):
        if (run / file).is_file():
            client.log_artifact(started, str(run / file))
    client.set_terminated(started)
    look = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {_store_uri(store)}"
    return f"run {started} of experiment {name} is in {store}; look at it with: {look}"


def _store_uri(store: Path) -> str:
    return store.as_uri() + "/mlruns"


def to_tensorboard(document: Json, out: Path) -> str:
    """Write the rounds and the results as TensorBoard event files in ``out/<run>``; returns what to look at.

    Raises:
        ConfigurationError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None
    folder = out / document["run"]["id"]
    with SummaryWriter(str(folder)) as writer:
        for key, step, value in _scalars(document):
            writer.add_scalar(key, value, step)
        for key, text in _parameters(document["protocol"]):
            writer.add_text(f"protocol/{key}", text, 0)
    return f"event files are in {folder}; look at them with: tensorboard --logdir {out}"


def _scalars(document: Json) -> Iterator[tuple[str, int, float]]:
    """Every number of the rounds and of the results: name, step (the round), value."""
    for row in document["rounds"]:
        step = row["round"]
        yield from _known("rounds/selection", step - 1, row["selection"])  # it judged the model that entered the round
        yield from _known("rounds/loss", step, row["loss"])
        yield from _known("rounds/seconds", step, row["wall_s"])
        for name, site in row["sites"].items():
            for key in ("loss", "update_norm", "seconds"):
                yield from _known(f"sites/{name}/{key}", step, site[key])
    best = document["run"]["best_round"]
    for name, block in {"all_sites": document["pooled"], **document["sites"]}.items():
        for key, number in block["metrics"].items():
            for end in ("value", "low", "high") if number else ():
                yield from _known(f"test/{name}/{key}" + ("" if end == "value" else f"_{end}"), best, number[end])


def _known(key: str, step: int, value: float | None) -> Iterator[tuple[str, int, float]]:
    if value is not None:
        yield key, step, float(value)


def _parameters(section: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The protocol, flat: ``training.lr`` -> ``0.001``."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _parameters(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", str(value)[:500]


def _missing(package: str) -> ConfigurationError:
    found = f"{package} is not installed"
    return ConfigurationError([Fault("export", "--to", found, "the extra “trackers”", "pip install 'consilium[trackers]'")])
