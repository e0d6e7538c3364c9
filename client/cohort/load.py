"""``load_cohort``: a hospital's files, by way of its configuration, to the tensors of a study."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.by_outcome import with_outcomes
from client.cohort.dates import with_elapsed
from client.cohort.dicom_pictures import dicom_folder, list_dicom
from client.cohort.findings import Findings, ImageFindings, OutcomeCounts, UnusableFile, VariableFinding
from client.cohort.fit import column_faults, protocol_faults
from client.cohort.notices import with_notices
from client.cohort.parallel import Progress
from client.cohort.patients import Patients, select_one, select_patients
from client.cohort.pictures import Picture, PictureRows, PictureTensors, list_pictures, no_pictures, read_pictures
from client.cohort.redcap import Field, read_fields, widened, with_choices, with_matches, with_rows_of
from client.cohort.split import PARTS, shuffled
from client.cohort.tables import Table, locate, read_table
from client.cohort.tensors import CohortTensors
from client.cohort.values import Source, Values, read_values, unmapped_values
from client.site_config import Cohort as CohortSettings
from client.site_config import Images as ImagesConfig
from client.site_config import SiteConfig, TableFormat
from shared_model.errors import CohortError, ConfigurationError, Fault
from shared_model.inputs import ABSENT, categorical_names, numeric_names
from shared_model.messages import Part
from shared_model.protocol import Images, StudyProtocol
from shared_model.summaries import CohortFlow


@dataclass(frozen=True)
class Cohort:
    """A site's labelled patients, ordered by identifier as text.

    ``parts`` maps each of the three parts to int64 indices ``[n]`` into the patients, ``order`` is int64 ``[P]``, the patients
    in the site's own random order, and ``ratings`` float64 ``[P]`` for each comparator. ``flow`` is what may leave the site;
    ``findings``, ``patients`` (the identifiers) and ``pictures`` (what is known of each before it is read) stay.
    """

    site: str
    tensors: CohortTensors
    parts: Mapping[Part, Tensor]
    order: Tensor
    ratings: Mapping[str, NDArray[np.float64]]
    flow: CohortFlow
    findings: Findings
    patients: tuple[str, ...] = field(repr=False)
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.patients)


def load_cohort(
    config: SiteConfig,
    protocol: StudyProtocol,
    *,
    where: Path,
    on_progress: Progress = lambda _doing, _done, _total: None,
    only: str | None = None,
) -> Cohort:
    """Read the site's files as ``protocol`` wants them.

    ``where`` is the path of ``site.toml``: paths in it are relative to its folder, and faults name it. ``on_progress``
    is told what is being done and how far it is (images only; tables take no time). Findings name files and cells, which
    are to be ``concealed`` in what is written down. ``only`` reads one patient, whose outcome need not be known (the label
    is then 0 and the part ``test``, and neither means anything).

    Raises:
        ConfigurationError: the configuration does not fit the protocol, or the columns of the tables.
        CohortError: the files cannot be read, or their content does not fit the configuration.
    """
    config, cohort_table, image_table = open_tables(config, protocol, where)
    if only is None:
        selected = select_patients(cohort_table, config, where=str(where))
    else:
        selected = select_one(cohort_table, config, only, where=str(where))
        # No patient is left out for what is missing: a risk is asked of this one.
        config = config.model_copy(update={"cohort": config.cohort.model_copy(update={"require": ()})})
    patients, values = _read_variables(cohort_table, config, protocol, selected, where)
    rows, pictures = _read_images(
        cohort_table, image_table, config, protocol, patients, where=where, on_progress=on_progress, one=only is not None
    )
    part_of = patients.parts(config.split)
    found = _findings(patients, part_of, variables=with_outcomes(values, list(patients.labels.values()), protocol))
    if rows is not None and protocol.images is not None:
        found = replace(found, images=_image_findings(rows, pictures, protocol.images))
    findings = with_notices(found, config, protocol)
    place_of = {patient: place for place, patient in enumerate(patients.rows)}
    places = {part: [place for place, patient in enumerate(patients.rows) if part_of[patient] == part] for part in PARTS}
    flow = CohortFlow(
        found=findings.found,
        excluded=dict(findings.excluded),
        images_found=findings.images.found if findings.images else 0,
        images_unusable=len(pictures.unusable),
    )
    return Cohort(
        site=config.site.name,
        tensors=_tensors(patients, protocol, values, pictures),
        parts={part: torch.tensor(own, dtype=torch.int64) for part, own in places.items()},
        order=torch.tensor([place_of[patient] for patient in shuffled(list(place_of), seed=config.split.seed)]),
        ratings={name: values[rating.variable or name].array for name, rating in protocol.comparators.items()},
        flow=flow,
        findings=findings,
        patients=tuple(patients.rows),
        pictures=rows.pictures if rows is not None else (),
    )


def survey(
    config: SiteConfig,
    *,
    where: Path,
    on_progress: Progress = lambda _doing, _done, _total: None,
) -> Findings:
    """What can be said without a study: tables, columns, filter, labels and parts, and headers of DICOM objects.

    Raises:
        ConfigurationError, CohortError: as ``load_cohort``.
    """
    config, cohort_table, image_table = open_tables(config, None, where)
    patients = select_patients(cohort_table, config, where=str(where))
    if config.images is not None:
        views = list(dict.fromkeys([*config.images.view.named.values(), *filter(None, [config.images.flow])]))
        _list_images(cohort_table, image_table, config.images, patients, views, where=where, on_progress=on_progress)
    found = _findings(patients, patients.parts(config.split), variables={})
    return with_notices(found, config, None)


def open_tables(config: SiteConfig, protocol: StudyProtocol | None, where: Path) -> tuple[SiteConfig, Table, Table | None]:
    """Both tables, and the configuration with what follows from them: REDCap's fields, and times between dates."""
    unreadable: list[Fault] = []
    cohort = images = None
    fields: Mapping[str, Field] = {}
    with _gathered(unreadable):
        cohort, fields = _open_cohort(config.cohort, where)
    if config.images is not None:
        with _gathered(unreadable):
            if config.images.table is not None:
                images = _open(config.images.table, config.images, "images.table", where)
            if config.images.dicom is not None:
                dicom_folder(config.images.dicom, where=where)
            if config.images.folder is not None:
                locate(config.images.folder, base=where.parent, where=str(where), key="images.folder")
    unfit = column_faults(config, cohort=cohort, images=images, where=str(where))
    if protocol is not None:
        unfit += protocol_faults(config, protocol, where=str(where))
    if unfit or cohort is None:
        faults = _distinct(unreadable + unfit)
        raise ConfigurationError(faults) if unfit else CohortError(faults)
    if unreadable:
        raise CohortError(_distinct(unreadable))
    settings = with_rows_of(config.cohort, cohort, where=str(where))
    if protocol is not None:
        settings = with_matches(settings, fields, protocol)
    cohort, settings = with_elapsed(cohort, settings, where=str(where))
    return config.model_copy(update={"cohort": settings}), cohort, images


def _open_cohort(settings: CohortSettings, where: Path) -> tuple[Table, Mapping[str, Field]]:
    table = _open(settings.table, settings, "cohort.table", where)
    if settings.long is not None:
        table = widened(table, settings.long, where=str(where))
    if settings.redcap_dictionary is None:
        return table, {}
    fields = read_fields(_open(settings.redcap_dictionary, TableFormat(), "cohort.redcap_dictionary", where))
    return with_choices(table, fields), fields


@contextmanager
def _gathered(faults: list[Fault]) -> Iterator[None]:
    """Keep the faults of the block for later, so that all are told together."""
    try:
        yield
    except (ConfigurationError, CohortError) as error:
        faults.extend(error.faults)


def _distinct(faults: list[Fault]) -> list[Fault]:
    """One table may serve both cohort and images: its faults are told once."""
    return list(dict.fromkeys(faults))


def _open(text: str, layout: TableFormat, key: str, where: Path) -> Table:
    return read_table(locate(text, base=where.parent, where=str(where), key=key), layout, where=str(where), key=key)


def _read_variables(
    table: Table, config: SiteConfig, protocol: StudyProtocol, patients: Patients, where: Path
) -> tuple[Patients, dict[str, Values]]:
    """Every variable and comparator of the protocol, for the patients that have the required variables."""

    def read(name: str, among: Patients) -> Values:
        section, mappings = ("comparators", cohort.comparators) if name in ratings else ("variables", cohort.variables)
        if name not in mappings:
            return unmapped_values(len(among.rows))
        source = Source(name, wanted[name], mappings[name], table, cohort.decimal, str(where), f"cohort.{section}")
        return read_values(source, list(among.rows.values()))

    cohort, wanted, ratings = config.cohort, protocol.mapped, protocol.ratings
    left_out: dict[str, str] = {}
    for name in config.cohort.require:
        gaps = np.isnan(read(name, patients).array)
        for patient in (patient for patient, gap in zip(patients.rows, gaps, strict=True) if gap):
            left_out.setdefault(patient, f"missing required variable: {name}")
    included = patients.without(left_out)
    if not included.rows:
        found = "; ".join(f"{reason} ({count} patients)" for reason, count in Counter(left_out.values()).items())
        remedy = "require fewer variables, or check their columns"
        raise CohortError([Fault(str(where), "cohort.require", found, "patients with a value of each", remedy)])
    values = {name: read(name, included) for name in wanted}
    if faults := [fault for value in values.values() for fault in value.faults]:
        raise CohortError(faults)
    return included, values


def _list_images(
    cohort_table: Table,
    table: Table | None,
    images: ImagesConfig,
    patients: Patients,
    views: list[str],
    *,
    where: Path,
    on_progress: Progress,
) -> PictureRows:
    named = list(patients.rows)
    if images.dicom is not None:
        keys = patients.keys(cohort_table, images.patient_column, where=str(where))
        return list_dicom(table, images, patients=named, keys=keys, views=views, where=where, on_progress=on_progress)
    if table is None:
        raise ValueError("images without a table and without a folder are refused before")
    return list_pictures(table, images, patients=named, known=patients.known, views=views, where=where)


def _read_images(
    cohort_table: Table,
    table: Table | None,
    config: SiteConfig,
    protocol: StudyProtocol,
    patients: Patients,
    *,
    where: Path,
    on_progress: Progress,
    one: bool = False,
) -> tuple[PictureRows | None, PictureTensors]:
    if config.images is None or protocol.images is None:
        return None, no_pictures(protocol.images, patients=len(patients.rows))
    views = list(protocol.images.views)
    named = list(patients.rows)
    # One patient, or pictures with outlines for explanations, must not take the place of a study's pictures.
    suffix = f"{'-one' if one else ''}{'-outlined' if protocol.images.lesion_mask else ''}"
    rows = _list_images(cohort_table, table, config.images, patients, views, where=where, on_progress=on_progress)
    pictures = read_pictures(
        rows.pictures,
        protocol.images,
        patients=len(named),
        max_unusable=1.0 if one else config.images.max_unusable,
        cache=f"{config.site.name}-{protocol.study.name}{suffix}",
        where=where,
        on_progress=on_progress,
    )
    return rows, pictures


def _tensors(patients: Patients, protocol: StudyProtocol, values: dict[str, Values], pictures: PictureTensors) -> CohortTensors:
    numeric, categorical = numeric_names(protocol), categorical_names(protocol)
    count = len(patients.rows)
    numbers = np.full((count, len(numeric)), np.nan)  # [P, N]
    for column, name in enumerate(numeric):
        array = values[name].array
        numbers[:, column] = np.log(array) if protocol.variables[name].log else array
    classes = np.full((count, len(categorical)), np.nan)  # [P, K]
    for column, name in enumerate(categorical):
        classes[:, column] = values[name].array
    return CohortTensors(
        images=pictures.images,
        slots=pictures.slots,
        views=pictures.views,
        numeric=torch.from_numpy(np.nan_to_num(numbers).astype(np.float32)),
        numeric_present=torch.from_numpy(~np.isnan(numbers)),
        categorical=torch.from_numpy(np.nan_to_num(classes, nan=ABSENT).astype(np.int64)),
        label=torch.tensor(list(patients.labels.values()), dtype=torch.float32),
    )


def _findings(patients: Patients, part_of: Mapping[str, Part], *, variables: Mapping[str, VariableFinding]) -> Findings:
    outcomes = {part: [patients.labels[name] for name, own in part_of.items() if own == part] for part in PARTS}
    return Findings(
        found=patients.found,
        included=len(patients.rows),
        excluded=patients.excluded,
        rows_without_id=patients.rows_without_id,
        ignored_labels=patients.ignored_labels,
        unlisted_parts=patients.unlisted_parts,
        parts={part: OutcomeCounts(len(labels), sum(labels)) for part, labels in outcomes.items()},
        variables=variables,
        images=None,
    )


def _image_findings(rows: PictureRows, pictures: PictureTensors, settings: Images) -> ImageFindings:
    return ImageFindings(
        found=len(rows.pictures),
        used=pictures.used,
        by_view={name: int((pictures.views == place).sum()) for place, name in enumerate(settings.views)},
        beyond_limit=len(rows.pictures) - pictures.read,
        unmapped_views=rows.unmapped_views,
        of_nobody=rows.of_nobody,
        unusable=tuple(UnusableFile(str(picture.file or ""), reason.value) for picture, reason in pictures.unusable),
        patients_without=int((pictures.slots == ABSENT).all(dim=1).sum()),
        unscaled=pictures.unscaled,
        cache=pictures.cache,
        skipped=rows.skipped,
    )
