"""A small study of clinical tables on disk, as users have them: study.toml, and a site.toml with its CSV for each site."""

import csv
from pathlib import Path

import numpy as np

STUDY = """\
[study]
name = "small"
title = "A small study"
outcome = "made up"

[variables]
age = {{ kind = "numeric", unit = "years", range = [0, 120] }}
size = {{ kind = "numeric", unit = "mm", range = [0.1, 200], log = true }}
sex = {{ kind = "categorical", categories = ["female", "male"] }}

[network]
kind = "clinical_only"
width = 16
heads = 2
modality_dropout = 0.0

[training]
epochs = 1
batch_size = 16
lr = 0.003

[federation]
rounds = {rounds}
deadline_s = 120
{federation}
"""

SITE = """\
[site]
name = "{name}"

[cohort]
table = "{name}.csv"
patient_id = "id"
label = {{ column = "outcome", positive = ["yes"], negative = ["no"] }}

[cohort.variables]
age = {{ column = "age", unit = "years" }}
size = {{ column = "size_cm", unit = "cm" }}
sex = {{ column = "sex", codes = {{ F = "female", M = "male" }} }}

[policy]
minimum_cell = 1
"""


def write_study(folder: Path, *, rounds: int = 4, federation: str = "") -> Path:
    """Write a study.toml; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.toml"
    path.write_text(STUDY.format(rounds=rounds, federation=federation))
    return path


def write_sites(folder: Path, *, names: tuple[str, ...] = ("east", "north", "west"), patients: int = 80) -> list[Path]:
    """Write a table and a site.toml for each of ``names``; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        age, size = rng.normal(50, 12, patients).clip(18, 90), rng.lognormal(0, 0.5, patients)
        male = rng.random(patients) < 0.3
        risk = 1 / (1 + np.exp(-(-1.5 + 0.04 * (50 - age) + 1.5 * np.log(size) + 0.8 * male + 1.0)))
        outcome = rng.random(patients) < risk
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "age", "size_cm", "sex", "outcome"])
            for row in range(patients):
                sex, label = "M" if male[row] else "F", "yes" if outcome[row] else "no"
                writer.writerow([f"{name}-{row}", f"{age[row]:.1f}", f"{size[row]:.2f}", sex, label])
        path = folder / f"{name}.toml"
        path.write_text(SITE.format(name=name))
        paths.append(path)
    return paths
