"""A synthetic hospital's export, written as a real site would write it, with its ``site.toml`` beside it.

::

    out/alder/              the hospital: site.toml, tables, pictures
    out/truth/alder.parquet what the pipeline never reads: true risk, texture, and every value before anything went missing
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from client.synthetic.hospitals import HOSPITALS, PROFILES, Column, Hospital, Layout
from client.synthetic.images import draw_pictures
from client.synthetic.patients import REFERENCE_SIZE_MM, Patients, draw_patients, with_prevalence
from shared_model.errors import ConfigurationError, Fault
from shared_model.seeds import derive


def synthesize(out: Path, *, hospital: str, patients: int, seed: int) -> Path:
    """Write the export of ``patients`` patients of one invented hospital below ``out``; return the path of its site.toml.

    The same arguments write the same files, and leave a whole export of these patients as it is. ``hospital`` is one of
    ``HOSPITALS``.

    Raises:
        ConfigurationError: an unknown hospital, no patient, or a folder that cannot be written.
    """
    profile = _known(hospital, patients)
    drawn = draw_patients(patients, mix=with_prevalence(profile.mix, profile.prevalence), seed=derive(seed, hospital))
    identifiers = [profile.identifier.format(number) for number in range(1, patients + 1)]
    truth, truth_file = _truth(drawn, identifiers), out / "truth" / f"{hospital}.parquet"
    folder = out / hospital
    site_file = folder / "site.toml"
    rng = np.random.default_rng(derive(seed, hospital, "export"))
    try:
        if site_file.exists() and _holds(truth_file, truth):
            return site_file
        truth_file.unlink(missing_ok=True)  # and written last: it stands for a whole export
        images = _write_pictures(folder, profile, drawn, identifiers, rng, seed=derive(seed, hospital, "pictures"))
        _write_tables(folder, profile.layout, _patient_table(profile, drawn, identifiers, rng), images)
        site_file.write_bytes((files("site_configs") / "demo" / f"{hospital}.toml").read_bytes())
        _write_truth(truth_file, truth)
    except OSError as error:
        raise ConfigurationError([_cannot_write(out, error)]) from None
    return site_file


def _known(hospital: str, patients: int) -> Hospital:
    faults = []
    if hospital not in HOSPITALS:
        faults.append(Fault("--hospital", "", hospital, "one of " + ", ".join(HOSPITALS), "choose one of these"))
    if patients < 1:
        faults.append(Fault("--patients", "", str(patients), "at least 1", "ask for more patients"))
    if faults:
        raise ConfigurationError(faults)
    return PROFILES[hospital]


def _cannot_write(out: Path, error: OSError) -> Fault:
    return Fault("--out", "", f"{out}: {error.strerror}", "a folder that can be written to", "choose another folder")


def _truth(drawn: Patients, identifiers: list[str]) -> pd.DataFrame:
    return drawn.variables.assign(id=identifiers, texture=drawn.texture, logit=drawn.logit, risk=drawn.risk, label=drawn.label)


def _holds(file: Path, truth: pd.DataFrame) -> bool:
    return file.exists() and pd.read_parquet(file).equals(truth)


def _write_truth(file: Path, truth: pd.DataFrame) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    truth.to_parquet(beside, index=False)
    beside.replace(file)


def _patient_table(profile: Hospital, drawn: Patients, identifiers: list[str], rng: np.random.Generator) -> pd.DataFrame:
    source = drawn.variables.assign(id=identifiers, llnm=drawn.label, stage=_stage(drawn))
    table = pd.DataFrame({heading: _local(source[column.source], column) for heading, column in profile.columns.items()})
    for heading, column in profile.columns.items():
        gone = _goes_missing(drawn, profile.absent.get(column.source, 0.0), rng)
        table[heading] = table[heading].astype(object).where(~gone, None)
    return table.infer_objects()


def _local(values: "pd.Series[Any]", column: Column) -> "pd.Series[Any]":
    """A variable in the hospital's codes and unit."""
    if column.codes is not None:
        return values.map(dict(column.codes))
    if not pd.api.types.is_float_dtype(values):
        return values
    local = (values * column.factor).round(column.decimals)
    return local.astype(np.int64) if column.decimals == 0 else local


def _stage(drawn: Patients) -> NDArray[np.str_]:
    return np.where(drawn.label, "N1b", np.where(drawn.variables["central_nodes"], "N1a", "N0"))


def _goes_missing(drawn: Patients, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Not at random: the smaller the tumour, the less of it is measured and tested. bool ``[n]``."""
    if share == 0.0:
        return np.zeros(len(drawn), dtype=np.bool_)
    log_size = np.log(drawn.variables["tumour_size"].to_numpy() / REFERENCE_SIZE_MM)
    odds = share / (1.0 - share) * np.exp(-0.8 * log_size)
    return np.asarray(rng.random(len(drawn)) < odds / (1.0 + odds))


def _write_pictures(
    folder: Path, profile: Hospital, drawn: Patients, identifiers: list[str], rng: np.random.Generator, *, seed: int
) -> pd.DataFrame:
    """Write every view's pictures; return the image table in the hospital's headings."""
    rows = []
    for view, export in profile.views.items():
        pictures = draw_pictures(drawn, view, scanner=profile.scanner, seed=seed)
        for number in np.flatnonzero(rng.random(len(drawn)) < export.share):
            file = Path(profile.layout.picture.format(id=identifiers[number], code=export.code))
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures.pixels[number]).save(folder / file)
            place = file.relative_to(Path(profile.layout.images).parent).as_posix()
            rows.append((identifiers[number], place, export.code, *map(int, pictures.boxes[number])))
    return pd.DataFrame(sorted(rows), columns=list(profile.image_columns))


def _write_tables(folder: Path, layout: Layout, patients: pd.DataFrame, images: pd.DataFrame) -> None:
    if layout.kind == "xlsx":
        with pd.ExcelWriter(folder / layout.patients) as book:
            patients.to_excel(book, sheet_name="Patients", index=False, na_rep=layout.missing)
            images.to_excel(book, sheet_name="Ultrasound", index=False)
        return
    for table, file in ((patients, layout.patients), (images, layout.images)):
        if layout.kind == "parquet":
            table.to_parquet(folder / file, index=False)
        else:
            table.to_csv(
                folder / file,
                index=False,
                sep=layout.separator,
                decimal=layout.decimal,
                encoding=layout.encoding,
                na_rep=layout.missing,
            )
