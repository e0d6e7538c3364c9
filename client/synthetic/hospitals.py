"""Four invented hospitals: who comes to them, how their scanners draw, and how their export is written.

The differences are those that real centres show: prevalence, age and sex, tumour size, which variables are measured,
units, codes, column names, file formats. ``site_configs/demo/<name>.toml`` maps each export to the demo study.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from client.synthetic.images import Scanner, View
from client.synthetic.patients import CaseMix

BMODE: tuple[View, ...] = ("bmode_transverse", "bmode_longitudinal")
YES_NO: Mapping[object, object] = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Column:
    """A column of an export: the variable it comes from, local codes, values of the hospital's unit in one of ours, and
    decimals as written."""

    source: str
    codes: Mapping[object, object] | None = None
    factor: float = 1.0
    decimals: int = 1


@dataclass(frozen=True)
class ViewExport:
    """A view as the hospital stores it: its code in the image table and the share of patients who have it."""

    code: str
    share: float = 1.0


@dataclass(frozen=True)
class Layout:
    """Where an export's tables and pictures lie. ``picture`` is a pattern over ``id`` and ``code``; ``missing`` is the text
    in the cell of a missing value."""

    kind: Literal["csv", "xlsx", "parquet"]
    patients: str
    images: str
    picture: str
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    missing: str = ""


@dataclass(frozen=True)
class Hospital:
    """One invented hospital. ``absent`` is the share of patients without a value of a variable; ``image_columns`` are the
    headings of patient, file, view and the lesion's box."""

    name: str
    prevalence: float
    mix: CaseMix
    scanner: Scanner
    layout: Layout
    identifier: str
    columns: Mapping[str, Column]
    views: Mapping[View, ViewExport]
    image_columns: tuple[str, str, str, str, str, str, str]
    absent: Mapping[str, float] = field(default_factory=dict)


_ALDER = Hospital(
    name="alder",
    prevalence=0.30,
    mix=CaseMix(),
    scanner=Scanner(pixels=128),
    layout=Layout(kind="csv", patients="patients.csv", images="images.csv", picture="images/{id}_{code}.png"),
    identifier="AL{:04d}",
    columns={
        "patient_id": Column("id"),
        "age": Column("age", decimals=0),
        "sex": Column("sex", codes={"female": "F", "male": "M"}),
        "size_mm": Column("tumour_size"),
        "multifocal": Column("multifocal", codes=YES_NO),
        "pole": Column("pole"),
        "distance_capsule_mm": Column("capsule_distance"),
        "ete_ultrasound": Column("ete"),
        "calcification": Column("calcification"),
        "echogenicity": Column("echogenicity"),
        "margin": Column("margin"),
        "hashimoto": Column("hashimoto", codes=YES_NO),
        "tsh_mIU_L": Column("tsh", decimals=2),
        "braf_v600e": Column("braf", codes={True: "mutated", False: "wild type"}),
        "central_nodes_pathology": Column("central_nodes", codes=YES_NO),
        "llnm": Column("llnm", codes=YES_NO),
    },
    views={
        "bmode_transverse": ViewExport("T"),
        "bmode_longitudinal": ViewExport("L"),
        "doppler": ViewExport("D", share=0.9),
    },
    image_columns=("patient_id", "file", "view", "x0", "y0", "x1", "y1"),
    absent={"braf": 0.30, "tsh": 0.05, "capsule_distance": 0.03},
)

_BIRCH = Hospital(
    name="birch",
    prevalence=0.14,
    mix=CaseMix(age_mean=48.0, age_sd=13.0, male=0.22, size_median_mm=6.0),
    scanner=Scanner(pixels=112, gain=1.3, gamma=0.8, speckle_mm=0.45),
    layout=Layout(
        kind="csv",
        patients="export/Patienten.csv",
        images="export/Bilder.csv",
        picture="export/bilder/{id}/{code}.png",
        separator=";",
        decimal=",",
        encoding="latin-1",
        missing="k.A.",
    ),
    identifier="{:06d}",
    columns={
        "Fallnummer": Column("id"),
        "Alter": Column("age", decimals=0),
        "Geschlecht": Column("sex", codes={"female": 2, "male": 1}),
        "Größe_cm": Column("tumour_size", factor=0.1, decimals=2),
        "Multifokal": Column("multifocal", codes={True: "ja", False: "nein"}),
        "Lage": Column("pole", codes={"upper": "oben", "middle": "Mitte", "lower": "unten", "isthmus": "Isthmus"}),
        "Kapselabstand_cm": Column("capsule_distance", factor=0.1, decimals=2),
        "ETE": Column("ete", codes={"none": 0, "minimal": 1, "gross": 2}),
        "Kalk": Column("calcification", codes={"none": "kein", "micro": "mikro", "macro": "makro"}),
        "Echo": Column("echogenicity", codes={"isoechoic": 1, "hypoechoic": 2, "markedly_hypoechoic": 3}),
        "Rand": Column("margin", codes={"smooth": "glatt", "ill_defined": "unscharf", "irregular": "unregelmäßig"}),
        "Hashimoto": Column("hashimoto", codes={True: "ja", False: "nein"}),
        "TSH": Column("tsh", decimals=2),
        "BRAF": Column("braf", codes={True: "positiv", False: "negativ"}),
        "LLNM": Column("llnm", codes={True: 1, False: 0}),
    },
    views={"bmode_transverse": ViewExport("quer"), "bmode_longitudinal": ViewExport("längs")},
    image_columns=("Fallnummer", "Datei", "Ebene", "links", "oben", "rechts", "unten"),
    absent={"braf": 0.45, "tsh": 0.08, "capsule_distance": 0.05, "margin": 0.03},
)

_CEDAR = Hospital(
    name="cedar",
    prevalence=0.52,
    mix=CaseMix(age_mean=42.0, male=0.31, size_median_mm=8.2),
    scanner=Scanner(pixels=160, gain=0.8, gamma=1.2, speckle_mm=0.30),
    layout=Layout(
        kind="xlsx", patients="registry.xlsx", images="registry.xlsx", picture="ultrasound/{code}/{id}.tif", missing="NA"
    ),
    identifier="C-{:05d}",
    columns={
        "Record": Column("id"),
        "Age": Column("age"),
        "Sex": Column("sex"),
        "Max diameter (mm)": Column("tumour_size"),
        "Foci": Column("multifocal", codes={True: "multiple", False: "single"}),
        "Pole": Column("pole"),
        "Capsule distance (mm)": Column("capsule_distance"),
        "ETE": Column("ete"),
        "Calcification": Column("calcification", codes={"none": "absent", "micro": "micro", "macro": "macro"}),
        "Echogenicity": Column("echogenicity"),
        "Margin": Column("margin"),
        "Thyroiditis": Column("hashimoto", codes=YES_NO),
        "TSH (uIU/mL)": Column("tsh", decimals=2),
        "BRAF": Column("braf", codes={True: "V600E", False: "WT"}),
        "pN": Column("stage"),
    },
    views={
        "bmode_transverse": ViewExport("transverse"),
        "bmode_longitudinal": ViewExport("longitudinal"),
        "doppler": ViewExport("colour"),
    },
    image_columns=("Record", "Picture", "Plane", "Left", "Top", "Right", "Bottom"),
    absent={"braf": 0.60, "tsh": 0.03, "capsule_distance": 0.02},
)

_HAZEL = Hospital(
    name="hazel",
    prevalence=0.30,
    mix=CaseMix(age_mean=45.0, age_sd=11.0, male=0.25, size_median_mm=7.4),
    scanner=Scanner(pixels=128, gain=1.1, gamma=1.1, field_mm=44.0, penetration_mm=45.0),
    layout=Layout(kind="parquet", patients="patients.parquet", images="images.parquet", picture="pictures/{id}-{code}.jpg"),
    identifier="{}",
    columns={
        "pid": Column("id"),
        "age_months": Column("age", factor=12.0, decimals=0),
        "male": Column("sex", codes={"female": False, "male": True}),
        "size_cm": Column("tumour_size", factor=0.1, decimals=2),
        "multifocal": Column("multifocal"),
        "pole": Column("pole", codes={"upper": "U", "middle": "M", "lower": "L", "isthmus": "I"}),
        "capsule_mm": Column("capsule_distance", decimals=2),
        "ete": Column("ete", codes={"none": "0", "minimal": "1", "gross": "2"}),
        "calcification": Column("calcification"),
        "echogenicity": Column(
            "echogenicity", codes={"isoechoic": "iso", "hypoechoic": "hypo", "markedly_hypoechoic": "marked"}
        ),
        "margin": Column("margin"),
        "hashimoto": Column("hashimoto"),
        "tsh": Column("tsh", decimals=3),
        "lateral_n": Column("llnm"),
    },
    views={"bmode_transverse": ViewExport("1"), "bmode_longitudinal": ViewExport("2", share=0.67)},
    image_columns=("pid", "path", "view", "x0", "y0", "x1", "y1"),
    absent={"tsh": 0.05, "capsule_distance": 0.04, "echogenicity": 0.03},
)

PROFILES: Mapping[str, Hospital] = {hospital.name: hospital for hospital in (_ALDER, _BIRCH, _CEDAR, _HAZEL)}
HOSPITALS = tuple(PROFILES)
