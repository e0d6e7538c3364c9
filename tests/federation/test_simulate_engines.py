"""One study on every engine: the same weights, bit for bit, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from server.launch import Engine, Extent, prepare, simulate
from tests.tables import write_sites, write_study

pytestmark = pytest.mark.federation

RULE = 'client_rule = { kind = "scaffold" }'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("engines")
    sites = write_sites(folder)
    # SCAFFOLD, so that what a site remembers between rounds must survive in each engine; it needs plain steps.
    studies = {name: write_study(folder / name, rounds=2, federation=RULE) for name in ("clear", "masked")}
    for name, study in studies.items():
        privacy = "\n[privacy]\nsecure_sum = true\n" if name == "masked" else ""
        study.write_text(study.read_text().replace("lr = 0.003", 'lr = 0.1\noptimizer = "sgd"') + privacy)

    def simulated(engine: Engine, *, masked: bool = False) -> Path:
        study = studies["masked" if masked else "clear"]
        out = folder / f"{engine} {study.parent.name}"
        if not out.exists():
            simulation = prepare(study, sites, out=out, seed=3, engine=engine, threads=1)
            simulate(simulation, extent=Extent(), console=Console(quiet=True))
        return out

    return simulated


@pytest.mark.parametrize("engine", ["flower", "ray"])
def test_an_engine_of_flowers_ends_with_the_bits_of_the_one_in_process(engine: Engine, run: Callable[..., Path]) -> None:
    before = {process.pid for process in psutil.process_iter()}
    own, other = (load_file(run(name) / "models" / "best.safetensors") for name in ("in-process", engine))
    assert {name: tensor.tobytes() for name, tensor in own.items()} == {name: t.tobytes() for name, t in other.items()}
    assert any(np.any(tensor) for tensor in own.values())
    started = [p for p in psutil.process_iter() if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE]
    marked = [p for p in started if str(run(engine)) in " ".join(_command(p))]
    assert marked == []
    assert not (run(engine) / "scratch").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["flower", "ray"])
def test_secure_sums_work_on_every_engine(engine: Engine, run: Callable[..., Path]) -> None:
    """What a site keeps between the legs of a sum survives in each engine, and masks cancel to the last bit."""
    clear, own, other = (
        load_file(folder / "models" / "best.safetensors")
        for folder in (run("in-process"), run("in-process", masked=True), run(engine, masked=True))
    )
    assert {name: tensor.tobytes() for name, tensor in own.items()} == {name: t.tobytes() for name, t in other.items()}
    assert all(np.allclose(clear[name], tensor, rtol=0, atol=1e-6) for name, tensor in own.items())


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
