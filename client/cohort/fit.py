"""Does ``site.toml`` fit the headers of the hospital's tables and the study's protocol? Decided before any row is read."""

from collections.abc import Iterator

from client.cohort.image_sources import source_faults
from client.cohort.patterns import FilePattern
from client.cohort.tables import ROW_NUMBER, Table, listed
from client.site_config import Mapping, SiteConfig, canonical_code
from shared_model.config_file import did_you_mean, quoted
from shared_model.errors import Fault
from shared_model.protocol import StudyProtocol
from shared_model.variables import Variable, known_units, unit_factor


def column_faults(config: SiteConfig, *, cohort: Table | None, images: Table | None, where: str) -> list[Fault]:
    """Faults of columns that the configuration names and the tables (None: not readable) do not have, or have twice."""
    faults: list[Fault] = []
    if cohort is not None:
        for key, column in _cohort_columns(config):
            faults += _column_fault(cohort, key, column, where)
    if config.images is None:
        return faults
    faults += source_faults(config.images, columns=images.columns if images is not None else (), where=where)
    if cohort is not None and config.images.patient_column is not None:
        faults += _column_fault(cohort, "images.patient_column", config.images.patient_column, where)
    if config.images.patient_id == ROW_NUMBER and config.images.table != config.cohort.table:
        expected, remedy = "a column, where images have a table of their own", "name the column that holds the patient"
        faults.append(Fault(where, "images.patient_id", quoted(ROW_NUMBER), expected, remedy))
    for key, text in _patterns(config):
        try:
            columns = FilePattern.parse(text).columns
        except ValueError as error:
            faults.append(Fault(where, key, quoted(text), str(error), "mend the pattern"))
            continue
        for column in columns if images is not None else ():
            faults += _column_fault(images, key, column, where) if images is not None else []
    if images is not None:
        for key, column in _image_columns(config):
            faults += _column_fault(images, key, column, where)
    return faults


def protocol_faults(config: SiteConfig, protocol: StudyProtocol, *, where: str) -> list[Fault]:
    """Faults of variables, units, codes and views that the protocol does not know."""
    faults: list[Fault] = []
    for name, mapping in config.cohort.variables.items():
        key = f"cohort.variables.{name}"
        if (variable := protocol.variables.get(name)) is None:
            expected = f"a variable of study {protocol.study.name!r}: {listed(protocol.variables)}"
            remedy = did_you_mean(name, protocol.variables, otherwise="remove it, or ask the center to add it")
            faults.append(Fault(where, key, "no such variable", expected, remedy))
        else:
            faults += _mapping_faults(key, name, variable, mapping, where)
    faults += _comparator_faults(config, protocol, where)
    for name in config.cohort.require:
        if name not in config.cohort.variables:
            remedy = did_you_mean(name, config.cohort.variables, otherwise="map it in cohort.variables, or remove it")
            expected = f"a variable that is mapped: {listed(config.cohort.variables)}"
            faults.append(Fault(where, "cohort.require", quoted(name), expected, remedy))
    return [*faults, *_view_faults(config, protocol, where), *_lesion_faults(config, protocol, where)]


def _mapping_faults(key: str, name: str, variable: Variable, mapping: Mapping, where: str) -> list[Fault]:
    if variable.kind == "numeric":
        return [*_unit_faults(key, name, variable, mapping, where), *_number_code_faults(key, mapping, where)]
    return _category_faults(key, variable, mapping, where)


def _comparator_faults(config: SiteConfig, protocol: StudyProtocol, where: str) -> list[Fault]:
    faults: list[Fault] = []
    own = protocol.ratings
    for name, mapping in config.cohort.comparators.items():
        key = f"cohort.comparators.{name}"
        if name not in own:
            expected = f"a comparator of study {protocol.study.name!r} that is no variable: {listed(own) or 'there is none'}"
            remedy = did_you_mean(name, own, otherwise="remove it, or ask the center to add it")
            faults.append(Fault(where, key, "no such comparator", expected, remedy))
        elif not mapping.column:
            faults.append(Fault(where, f"{key}.from", "two dates", "a column", "name the column that holds the reading"))
        else:
            faults += _mapping_faults(key, name, own[name], mapping, where)
    return faults


def _cohort_columns(config: SiteConfig) -> Iterator[tuple[str, str]]:
    cohort = config.cohort
    yield "cohort.patient_id", cohort.patient_id
    yield "cohort.label.column", cohort.label.column
    yield from ((f"cohort.where.{column}", column) for column in cohort.where)
    for section, mappings in {"variables": cohort.variables, "comparators": cohort.comparators}.items():
        for name, mapping in mappings.items():
            named = {"column": mapping.column, "from": mapping.since, "to": mapping.to}
            yield from ((f"cohort.{section}.{name}.{key}", column) for key, column in named.items() if column)
    if config.split.column is not None:
        yield "split.column", config.split.column


def _image_columns(config: SiteConfig) -> Iterator[tuple[str, str]]:
    if (images := config.images) is None:
        return
    if images.dicom is None and images.patient_id is not None:
        yield "images.patient_id", images.patient_id
    if images.uid is not None:
        yield "images.uid", images.uid
    yield from ((f"images.where.{column}", column) for column in images.where)
    yield from (("images.roi", column) for column in images.roi or ())
    if isinstance(images.mm_per_pixel, str):
        yield "images.mm_per_pixel", images.mm_per_pixel
    if images.view.column is not None:
        yield "images.view.column", images.view.column


def _patterns(config: SiteConfig) -> Iterator[tuple[str, str]]:
    if config.images is not None:
        patterns = {"images.file": config.images.file, "images.mask": config.images.mask}
        yield from ((key, text) for key, text in patterns.items() if text is not None)


def _column_fault(table: Table, key: str, column: str, where: str) -> list[Fault]:
    if column == ROW_NUMBER and key.endswith("patient_id"):
        return []
    if column in table.repeated:
        found, remedy = f"{quoted(column)} is the name of several columns", "give each a name of its own in the table"
        return [Fault(where, key, found, "a column that can be told from the others", remedy)]
    if column in table.columns:
        return []
    expected = f"a column of {table.path.name}: {listed(table.columns)}"
    return [Fault(where, key, f"no column {quoted(column)}", expected, did_you_mean(column, table.columns))]


def _unit_faults(mapping_key: str, name: str, variable: Variable, mapping: Mapping, where: str) -> list[Fault]:
    key = f"{mapping_key}.unit"
    if variable.unit is None:
        if mapping.unit is None:
            return []
        return [Fault(where, key, quoted(mapping.unit), "no unit: the protocol gives none", "remove unit")]
    units = known_units(variable.unit, variable=name)
    expected = f"a unit that converts to {variable.unit}: {listed(units)}"
    stated = mapping.unit or ("years" if mapping.since else None)
    if stated is None:
        return [Fault(where, key, "nothing", expected, "say in which unit the column is: unit = ...")]
    if unit_factor(stated, variable.unit, variable=name) is None:
        return [Fault(where, key, quoted(stated), expected, did_you_mean(stated, units, otherwise="use one of these"))]
    return []


def _number_code_faults(key: str, mapping: Mapping, where: str) -> list[Fault]:
    wrong = {code: value for code, value in (mapping.codes or {}).items() if isinstance(value, bool | str)}
    return [
        Fault(where, f"{key}.codes.{code}", repr(value), "a number: the variable is numeric", "give a number without quotes")
        for code, value in wrong.items()
    ]


def _category_faults(key: str, variable: Variable, mapping: Mapping, where: str) -> list[Fault]:
    faults = []
    if mapping.unit is not None:
        faults.append(Fault(where, f"{key}.unit", quoted(mapping.unit), "no unit: the variable is categorical", "remove unit"))
    if mapping.combine == "mean":
        remedy = 'use "first", "min" or "max" (by the order of the categories)'
        faults.append(Fault(where, f"{key}.combine", '"mean"', "a rule for categories", remedy))
    known = {canonical_code(category) for category in variable.categories}
    for code, category in (mapping.codes or {}).items():
        if canonical_code(category) not in known:
            expected = f"a category of the protocol: {listed(variable.categories)}"
            remedy = did_you_mean(str(category), variable.categories, otherwise="map the code to one of these")
            faults.append(Fault(where, f"{key}.codes.{code}", quoted(str(category)), expected, remedy))
    return faults


def _lesion_faults(config: SiteConfig, protocol: StudyProtocol, where: str) -> list[Fault]:
    """A study that crops to the lesion can use no picture of a site that never says where it is."""
    if config.images is None or protocol.images is None or protocol.images.crop != "lesion":
        return []
    if config.images.roi is not None or config.images.mask is not None:
        return []
    expected = f"where the lesion is: study {protocol.study.name!r} shows its surroundings only"
    remedy = 'name the columns of its box, roi = ["x0", "y0", "x1", "y1"], or of its outline, mask = ...'
    if config.images.dicom is not None and config.images.table is None:
        remedy += '; for DICOM in a table beside it, whose uid = "..." or file = "..." names the object'
    return [Fault(where, "images.roi", "nothing", expected, remedy)]


def _view_faults(config: SiteConfig, protocol: StudyProtocol, where: str) -> list[Fault]:
    if config.images is None or protocol.images is None:
        return []
    view, known = config.images.view, protocol.images.views
    named = {f"images.view.{key}": name for key, name in view.named.items()}
    if config.images.flow is not None:
        named["images.flow"] = config.images.flow
    return [
        Fault(
            where,
            key,
            quoted(name),
            f"a view of study {protocol.study.name!r}: {listed(known)}",
            did_you_mean(name, known, otherwise="use one of these, or remove the code to leave such images out"),
        )
        for key, name in named.items()
        if name not in known
    ]
