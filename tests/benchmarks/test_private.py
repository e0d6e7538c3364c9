"""What differential privacy costs a site: CPU time and memory of a step, relative to training without it.

``make bench`` prints the table; nothing here is asserted. Each figure is the better of two processes of their own.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark


def measured(arm: str, trainable: str, physical_batch: int) -> tuple[float, float]:
    """CPU seconds a patient, and growth of memory in MB."""
    command = [sys.executable, "-m", "tests.benchmarks.private_round", arm, trainable, str(physical_batch)]
    root = Path(__file__).parents[2]
    runs = [subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    return min(float(seconds) for seconds, _ in runs), min(float(memory) for _, memory in runs)


def test_private_steps_against_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["default network, 3 views of 64 px, batches of 32; CPU time and growth of memory, in units of plain training"]
    for trainable in ("all", "fusion_and_head"):
        seconds, memory = measured("plain", trainable, 32)
        lines.append(f"{trainable:>15}  plain {memory:.0f} MB")
        for size in (32, 16, 8):
            s, m = measured("private", trainable, size)
            lines.append(
                f"{trainable:>15}  private, physical batches of {size:2d}: time {s / seconds:4.2f}, memory {m / memory:4.2f}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
