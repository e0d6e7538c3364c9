"""A synthetic hospital's export, written as a real site would write it, with its ``site.toml`` beside it.

::

    out/maple/    the hospital: site.toml, tables, pictures
    out/truth/    what the pipeline never reads, see ``client.synthetic.truth``
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from client.synthetic import redcap
from client.synthetic.hospitals import EXPORTS, HOSPITALS, SCANNERS, Column, Hospital, Layout, ViewExport
from client.synthetic.images import THREADS, Pictures, View, draw_pictures
from client.synthetic.overlay import LEFT, TOP, frame, synthetic_name, with_calipers
from client.synthetic.patients import REFERENCE_SIZE_MM, Patients, draw_patients, with_prevalence
from client.synthetic.physics import Scanner
from client.synthetic.truth import truth_table, write_masks, write_truth
from shared_model.errors import ConfigurationError, Fault
from shared_model.seeds import derive

_Row = tuple[str, str, str, int, int, int, int]  # of the image table

_BATCH = 64  # patients whose pictures are in memory at once
_RARER_IF_SMALL = -0.8  # log odds that a value is missing, for one of ln size
_RARER_IF_HIGH = {"braf": -0.5, "tg": -0.3, "calcitonin": -0.6}  # likewise for one standard deviation of the value itself


def synthesize(out: Path, *, hospital: str, patients: int, seed: int, scanner: str | None = None) -> Path:
    """Write the export of ``patients`` patients of one invented hospital below ``out``; return the path of its site.toml.

    The same arguments write the same files, and leave a whole export of these patients as it is. ``hospital`` is one of
    ``EXPORTS``; ``scanner``, one of ``SCANNERS``, takes the place of the hospital's own.

    Raises:
        ConfigurationError: an unknown hospital or scanner, no patient, or a folder that cannot be written.
    """
    profile = _known(hospital, patients, scanner)
    machine = scanner or profile.scanner
    drawn = draw_patients(patients, mix=with_prevalence(profile.mix, profile.prevalence), seed=derive(seed, profile.drawn_as))
    identifiers = [profile.identifier.format(number) for number in range(1, patients + 1)]
    truth, truth_file = truth_table(drawn, identifiers, scanner=machine), out / "truth" / f"{hospital}.parquet"
    folder = out / hospital
    site_file = folder / "site.toml"
    rng = np.random.default_rng(derive(seed, profile.drawn_as, "export"))
    try:
        if site_file.exists() and _holds(truth_file, truth):
            return site_file
        truth_file.unlink(missing_ok=True)  # and written last: it stands for a whole export
        export = _Export(profile, drawn, identifiers, SCANNERS[machine], folder, masks=out / "truth" / hospital)
        images = _write_pictures(export, rng, seed=derive(seed, profile.drawn_as, "pictures"))
        _write_tables(export, images, rng)
        site_file.write_bytes(_site_file(hospital).read_bytes())
        write_truth(truth_file, truth)
    except OSError as error:
        raise ConfigurationError([_cannot_write(out, error)]) from None
    return site_file


@dataclass(frozen=True)
class _Export:
    """What is written, and the folders of hospital and masks."""

    profile: Hospital
    drawn: Patients
    identifiers: list[str]
    scanner: Scanner
    folder: Path
    masks: Path


def _known(hospital: str, patients: int, scanner: str | None) -> Hospital:
    faults = []
    if hospital not in EXPORTS:
        faults.append(Fault("--hospital", "", hospital, "one of " + ", ".join(EXPORTS), "choose one of these"))
    if patients < 1:
        faults.append(Fault("--patients", "", str(patients), "at least 1", "ask for more patients"))
    if scanner is not None and scanner not in SCANNERS:
        faults.append(Fault("--scanner", "", scanner, "one of " + ", ".join(SCANNERS), "choose one of these"))
    if faults:
        raise ConfigurationError(faults)
    return EXPORTS[hospital]


def _site_file(hospital: str) -> Traversable:
    """The demo's hospitals have theirs beside its study."""
    folder = files("site_configs") / "demo" if hospital in HOSPITALS else files("client.synthetic")
    return folder / f"{hospital}.toml"


def _cannot_write(out: Path, error: OSError) -> Fault:
    return Fault("--out", "", f"{out}: {error.strerror}", "a folder that can be written to", "choose another folder")


def _holds(file: Path, truth: pd.DataFrame) -> bool:
    return file.exists() and pd.read_parquet(file).equals(truth)


def _write_tables(export: _Export, images: pd.DataFrame, rng: np.random.Generator) -> None:
    profile, drawn, folder = export.profile, export.drawn, export.folder
    values = drawn.variables.assign(id=export.identifiers, llnm=drawn.label, stage=_stage(drawn))
    gone = pd.DataFrame({name: goes_missing(drawn, name, share, rng) for name, share in profile.absent.items()})
    items = {name: column for name, column in profile.columns.items() if isinstance(column, redcap.Item)}
    if items:
        redcap.export(values, items, gone=gone).to_csv(folder / profile.layout.patients, index=False)
        redcap.dictionary(items).to_csv(folder / "redcap_data_dictionary.csv", index=False)
        images.to_csv(folder / profile.layout.images, index=False)
    else:
        _write_both(folder, profile.layout, _patient_table(profile, values, gone), images)


def _patient_table(profile: Hospital, values: pd.DataFrame, gone: pd.DataFrame) -> pd.DataFrame:
    columns = {name: column for name, column in profile.columns.items() if isinstance(column, Column)}
    table = pd.DataFrame({heading: _local(values[column.source], column) for heading, column in columns.items()})
    for heading, column in columns.items():
        if column.source in gone:
            table[heading] = table[heading].astype(object).where(~gone[column.source], None)
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


def goes_missing(drawn: Patients, variable: str, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Not at random: the smaller the tumour, the less of it is measured and tested, and a value that would alarm nobody is
    less often looked for or written down. bool ``[n]``."""
    log_odds = _RARER_IF_SMALL * np.log(drawn.variables["tumour_size"].to_numpy() / REFERENCE_SIZE_MM)
    if variable in _RARER_IF_HIGH:
        value = drawn.variables[variable].to_numpy(dtype=np.float64)
        value = value if variable == "braf" else np.log(value)
        log_odds = log_odds + _RARER_IF_HIGH[variable] * (value - value.mean()) / max(value.std(), 1e-6)
    odds = share / (1.0 - share) * np.exp(log_odds)
    return np.asarray(rng.random(len(drawn)) < odds / (1.0 + odds))


def _write_pictures(export: _Export, rng: np.random.Generator, *, seed: int) -> pd.DataFrame:
    """Write every view's pictures and their masks; return the image table in the hospital's headings."""
    rows: list[_Row] = []
    count = len(export.drawn)
    for view, how in export.profile.views.items():
        has, marked = rng.random(count) < how.share, rng.random(count) < export.scanner.caliper_share
        for start in range(0, count, _BATCH):
            part = export.drawn.part(start, start + _BATCH)
            pictures = draw_pictures(part, view, scanner=export.scanner, seed=derive(seed, start))
            write = partial(_write_picture, export, view, pictures, start=start, marked=marked)
            with ThreadPoolExecutor(THREADS) as pool:
                rows += pool.map(write, np.flatnonzero(has[start : start + _BATCH]).tolist())
    return pd.DataFrame(sorted(rows), columns=list(export.profile.image_columns))


def _write_picture(
    export: _Export, view: View, pictures: Pictures, place: int, *, start: int, marked: NDArray[np.bool_]
) -> _Row:
    """Write picture ``place`` of ``pictures``, which begin with patient ``start``; return its row of the image table.

    ``marked`` says whose pictures show calipers.
    """
    number = start + place
    layout, identifier, how = export.profile.layout, export.identifiers[number], export.profile.views[view]
    box, lesion, gland = pictures.boxes[place], pictures.lesion[place], pictures.gland[place]
    pixels = with_calipers(pictures.pixels[place], box) if marked[number] else pictures.pixels[place]
    if layout.framed:
        pixels = frame(pixels, scanner=export.scanner, heading=f"{', '.join(synthetic_name(number))}  {identifier}")
        below, right = pixels.shape[0] - TOP - len(lesion), pixels.shape[1] - LEFT - len(lesion)
        lesion, gland = (np.pad(mask, [(TOP, below), (LEFT, right)]) for mask in (lesion, gland))
        box = box + np.array([LEFT, TOP, LEFT, TOP])
    file = Path(layout.picture.format(id=identifier, code=how.code.replace(" ", "_")))
    (export.folder / file).parent.mkdir(parents=True, exist_ok=True)
    reference = file.relative_to(Path(layout.images).parent).as_posix()
    if file.suffix == ".dcm":
        reference = _write_dicom(export, how, pixels, number, series=1 + list(export.profile.views).index(view))
    elif file.suffix == ".jpg":
        Image.fromarray(pixels).save(export.folder / file, quality=90)
    else:
        Image.fromarray(pixels).save(export.folder / file, compress_level=1)
    write_masks(export.masks, f"{identifier}_{view}", lesion=lesion, gland=gland)
    x0, y0, x1, y1 = map(int, box)
    return identifier, reference, how.code, x0, y0, x1, y1


def _write_dicom(export: _Export, how: ViewExport, pixels: NDArray[np.uint8], number: int, *, series: int) -> str:
    from client.synthetic.dicom import write_object

    identifier, variables = export.identifiers[number], export.drawn.variables.iloc[number]
    return write_object(
        export.folder / export.profile.layout.picture.format(id=identifier, code=how.code.replace(" ", "_")),
        pixels,
        scanner=export.scanner,
        patient=identifier,
        name=synthetic_name(number),
        sex="M" if variables["sex"] == "male" else "F",
        age_years=float(variables["age"]),
        number=number + 1,
        series=series,
        description=how.code,
    )


def _write_both(folder: Path, layout: Layout, patients: pd.DataFrame, images: pd.DataFrame) -> None:
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
