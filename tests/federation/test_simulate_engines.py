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
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Engine], Path]:
    folder = tmp_path_factory.mktemp("engines")
    study, sites = write_study(folder, rounds=2, federation=RULE), write_sites(folder)
    # SCAFFOLD, so that what a site remembers between rounds must survive in each engine; it needs plain steps.
    study.write_text(study.read_text().replace("lr = 0.003", 'lr = 0.1\noptimizer = "sgd"'))

    def simulated(engine: Engine) -> Path:
        out = folder / engine
        if not out.exists():
            simulation = prepare(study, sites, out=out, seed=3, engine=engine, threads=1)
            simulate(simulation, extent=Extent(), console=Console(quiet=True))
        return out

    return simulated


@pytest.mark.parametrize("engine", ["flower", "ray"])
def test_an_engine_of_flowers_ends_with_the_bits_of_the_one_in_process(engine: Engine, run: Callable[[Engine], Path]) -> None:
    before = {process.pid for process in psutil.process_iter()}
    own, other = (load_file(run(name) / "models" / "best.safetensors") for name in ("in-process", engine))
    assert {name: tensor.tobytes() for name, tensor in own.items()} == {name: t.tobytes() for name, t in other.items()}
    assert any(np.any(tensor) for tensor in own.values())
    started = [p for p in psutil.process_iter() if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE]
    marked = [p for p in started if str(run(engine)) in " ".join(_command(p))]
    assert marked == []
    assert not (run(engine) / "scratch").exists()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
