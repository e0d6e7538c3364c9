"""Invented hospitals, four of them the demo's: who comes to them, how their scanners draw, and how their export is written.

The differences are those that real centres show: prevalence, age and sex, tumour size, which variables are measured,
units, codes, column names, file formats. ``site_configs/demo/<name>.toml`` maps each export of the demo to its study.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from client.synthetic.images import View
from client.synthetic.patients import CaseMix
from client.synthetic.physics import Scanner
from client.synthetic.redcap import Item

BMODE: tuple[View, ...] = ("bmode_transverse", "bmode_longitudinal")
# Four invented machines: what differs between real ones is frequency, hence grain and reach, the grey map, and what they print.
SCANNERS: Mapping[str, Scanner] = {
    "vesta_12": Scanner(label="THYROID 12L", caliper_share=0.1),
    "orion_9": Scanner(
        label="SCHILDDRUESE 9L",
        pixels=200,
        field_mm=42.0,
        frequency_mhz=9.0,
        focus_mm=15.0,
        f_number=2.6,
        dynamic_range_db=54.0,
        gain_db=3.0,
        gamma=0.9,
        smoothing=0.4,
        noise_db=-68.0,
        caliper_share=0.25,
    ),
    "lyra_15": Scanner(
        label="SMALL PARTS 15L",
        pixels=256,
        field_mm=38.0,
        frequency_mhz=14.0,
        f_number=1.8,
        dynamic_range_db=70.0,
        gain_db=-2.0,
        gamma=1.2,
        smoothing=0.45,
        noise_db=-86.0,
    ),
    "delphin_8": Scanner(
        label="NECK C8",
        pixels=192,
        field_mm=44.0,
        frequency_mhz=8.0,
        focus_mm=22.0,
        cycles=2.5,
        dynamic_range_db=66.0,
        gamma=1.1,
        noise_db=-66.0,
        radius_mm=110.0,
        caliper_share=0.15,
    ),
}
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
    """Where an export's tables and pictures lie. ``picture`` is a pattern over ``id`` and ``code``, its suffix the format;
    ``framed`` pictures hold all that the machine prints round the ultrasound; ``missing`` is the text in the cell of a
    missing value."""

    kind: Literal["csv", "xlsx", "parquet", "redcap"]
    patients: str
    images: str
    picture: str
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    missing: str = ""
    framed: bool = True


@dataclass(frozen=True)
class Hospital:
    """One invented hospital. ``absent`` is the share of patients without a value of a variable; ``image_columns`` are the
    headings of patient, file, view and the lesion's box. Patients follow from ``drawn_as`` and the seed: hospitals that share
    it, and how patients are drawn, have the same ones."""

    name: str
    drawn_as: str
    prevalence: float
    mix: CaseMix
    scanner: str
    layout: Layout
    identifier: str
    columns: Mapping[str, Column | Item]
    views: Mapping[View, ViewExport]
    image_columns: tuple[str, str, str, str, str, str, str]
    absent: Mapping[str, float] = field(default_factory=dict)


# Images matter about as much as tables: together texture and vascularity are worth 1.7 of log odds for a standard deviation.
_MIX = CaseMix(texture_effect=1.6, vascularity_effect=0.6)

_ALDER = Hospital(
    name="alder",
    drawn_as="alder",
    prevalence=0.30,
    mix=_MIX,
    scanner="vesta_12",
    layout=Layout(kind="csv", patients="patients.csv", images="images.csv", picture="images/{id}_{code}.png", framed=False),
    identifier="AL{:04d}",
    columns={
        "patient_id": Column("id"),
        "age": Column("age", decimals=0),
        "sex": Column("sex", codes={"female": "F", "male": "M"}),
        "size_mm": Column("tumour_size"),
        "multifocal": Column("multifocal", codes=YES_NO),
        "bilateral": Column("bilateral", codes=YES_NO),
        "pole": Column("pole"),
        "distance_capsule_mm": Column("capsule_distance"),
        "ete_ultrasound": Column("ete"),
        "calcification": Column("calcification"),
        "echogenicity": Column("echogenicity"),
        "margin": Column("margin"),
        "taller_than_wide": Column("taller_than_wide", codes=YES_NO),
        "tirads_kwak": Column("tirads"),
        "hashimoto": Column("hashimoto", codes=YES_NO),
        "tsh_mIU_L": Column("tsh", decimals=2),
        "tg_ng_mL": Column("tg"),
        "calcitonin_pg_mL": Column("calcitonin", decimals=2),
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
    absent={"braf": 0.30, "tsh": 0.05, "tg": 0.10, "calcitonin": 0.60, "capsule_distance": 0.03},
)

_BIRCH = Hospital(
    name="birch",
    drawn_as="birch",
    prevalence=0.14,
    mix=replace(_MIX, age_mean=48.0, age_sd=13.0, male=0.22, size_median_mm=6.0, suspicion=-0.4),
    scanner="orion_9",
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
        "Beidseitig": Column("bilateral", codes={True: "ja", False: "nein"}),
        "Lage": Column("pole", codes={"upper": "oben", "middle": "Mitte", "lower": "unten", "isthmus": "Isthmus"}),
        "Kapselabstand_cm": Column("capsule_distance", factor=0.1, decimals=2),
        "ETE": Column("ete", codes={"none": 0, "minimal": 1, "gross": 2}),
        "Kalk": Column("calcification", codes={"none": "kein", "micro": "mikro", "macro": "makro"}),
        "Echo": Column("echogenicity", codes={"isoechoic": 1, "hypoechoic": 2, "markedly_hypoechoic": 3}),
        "Rand": Column("margin", codes={"smooth": "glatt", "ill_defined": "unscharf", "irregular": "unregelmäßig"}),
        "Höher_als_breit": Column("taller_than_wide", codes={True: "ja", False: "nein"}),
        "TI-RADS": Column("tirads"),
        "Hashimoto": Column("hashimoto", codes={True: "ja", False: "nein"}),
        "TSH": Column("tsh", decimals=2),
        "Tg_ug_L": Column("tg"),
        "BRAF": Column("braf", codes={True: "positiv", False: "negativ"}),
        "LLNM": Column("llnm", codes={True: 1, False: 0}),
    },
    views={"bmode_transverse": ViewExport("quer"), "bmode_longitudinal": ViewExport("längs")},
    image_columns=("Fallnummer", "Datei", "Ebene", "links", "oben", "rechts", "unten"),
    absent={"braf": 0.45, "tsh": 0.08, "tg": 0.25, "capsule_distance": 0.05, "margin": 0.03},
)

_CEDAR = Hospital(
    name="cedar",
    drawn_as="cedar",
    prevalence=0.52,
    mix=replace(_MIX, age_mean=42.0, male=0.31, size_median_mm=8.2, suspicion=0.3),
    scanner="lyra_15",
    layout=Layout(
        kind="xlsx", patients="registry.xlsx", images="registry.xlsx", picture="ultrasound/{code}/{id}.png", missing="NA"
    ),
    identifier="C-{:05d}",
    columns={
        "Record": Column("id"),
        "Age": Column("age"),
        "Sex": Column("sex"),
        "Max diameter (mm)": Column("tumour_size"),
        "Foci": Column("multifocal", codes={True: "multiple", False: "single"}),
        "Bilateral": Column("bilateral", codes=YES_NO),
        "Pole": Column("pole"),
        "Capsule distance (mm)": Column("capsule_distance"),
        "ETE": Column("ete"),
        "Calcification": Column("calcification", codes={"none": "absent", "micro": "micro", "macro": "macro"}),
        "Echogenicity": Column("echogenicity"),
        "Margin": Column("margin"),
        "Taller than wide": Column("taller_than_wide", codes=YES_NO),
        "K-TIRADS": Column("tirads"),
        "Thyroiditis": Column("hashimoto", codes=YES_NO),
        "TSH (uIU/mL)": Column("tsh", decimals=2),
        "Tg (ng/mL)": Column("tg"),
        "Calcitonin (pg/mL)": Column("calcitonin", decimals=2),
        "BRAF": Column("braf", codes={True: "V600E", False: "WT"}),
        "pN": Column("stage"),
    },
    views={
        "bmode_transverse": ViewExport("transverse"),
        "bmode_longitudinal": ViewExport("longitudinal"),
        "doppler": ViewExport("colour"),
    },
    image_columns=("Record", "Picture", "Plane", "Left", "Top", "Right", "Bottom"),
    absent={"braf": 0.60, "tsh": 0.03, "tg": 0.15, "calcitonin": 0.80, "capsule_distance": 0.02},
)

_HAZEL = Hospital(
    name="hazel",
    drawn_as="hazel",
    prevalence=0.30,
    mix=replace(_MIX, age_mean=45.0, age_sd=11.0, male=0.25, size_median_mm=7.4),
    scanner="delphin_8",
    layout=Layout(kind="parquet", patients="patients.parquet", images="images.parquet", picture="pictures/{id}-{code}.jpg"),
    identifier="{}",
    columns={
        "pid": Column("id"),
        "age_months": Column("age", factor=12.0, decimals=0),
        "male": Column("sex", codes={"female": False, "male": True}),
        "size_cm": Column("tumour_size", factor=0.1, decimals=2),
        "multifocal": Column("multifocal"),
        "bilateral": Column("bilateral"),
        "pole": Column("pole", codes={"upper": "U", "middle": "M", "lower": "L", "isthmus": "I"}),
        "capsule_mm": Column("capsule_distance", decimals=2),
        "ete": Column("ete", codes={"none": "0", "minimal": "1", "gross": "2"}),
        "calcification": Column("calcification"),
        "echogenicity": Column(
            "echogenicity", codes={"isoechoic": "iso", "hypoechoic": "hypo", "markedly_hypoechoic": "marked"}
        ),
        "margin": Column("margin"),
        "hashimoto": Column("hashimoto"),
        "taller": Column("taller_than_wide"),
        "tirads": Column("tirads"),
        "tsh": Column("tsh", decimals=3),
        "tg": Column("tg", decimals=2),
        "ct_ng_l": Column("calcitonin", decimals=1),
        "lateral_n": Column("llnm"),
    },
    views={"bmode_transverse": ViewExport("1"), "bmode_longitudinal": ViewExport("2", share=0.67)},
    image_columns=("pid", "path", "view", "x0", "y0", "x1", "y1"),
    absent={"tsh": 0.05, "tg": 0.20, "calcitonin": 0.70, "capsule_distance": 0.04, "echogenicity": 0.03},
)

_MAPLE = replace(  # alder's patients as a picture archive and a REDCap project hold them
    _ALDER,
    name="maple",
    layout=Layout(kind="redcap", patients="redcap_export.csv", images="image_list.csv", picture="dicom/{id}/{code}.dcm"),
    identifier="MP-{:04d}",
    columns={
        "age": Item("Age at diagnosis", "age", "demographics", note="years", decimals=0),
        "sex": Item("Sex", "sex", "demographics", {"male": (1, "Male"), "female": (2, "Female")}),
        "tumour_size": Item("Largest diameter", "tumour_size", note="cm", decimals=2, factor=0.1),
        "findings": Item(
            "Findings (tick all that apply)",
            choices={
                "multifocal": (1, "More than one focus"),
                "bilateral": (2, "Foci in both lobes"),
                "hashimoto": (3, "Hashimoto thyroiditis"),
                "taller_than_wide": (4, "Taller than wide"),
            },
        ),
        "pole": Item(
            "Position",
            "pole",
            choices={"upper": (1, "Upper"), "middle": (2, "Middle"), "lower": (3, "Lower"), "isthmus": (4, "Isthmus")},
        ),
        "capsule_distance": Item("Distance to capsule", "capsule_distance", note="mm"),
        "ete": Item("Extension", "ete", choices={"none": (0, "None"), "minimal": (1, "Minimal"), "gross": (2, "Gross")}),
        "calcification": Item(
            "Calcification", "calcification", choices={"none": (0, "None"), "micro": (1, "Micro"), "macro": (2, "Macro")}
        ),
        "echogenicity": Item(
            "Echogenicity",
            "echogenicity",
            choices={
                "isoechoic": (1, "Isoechoic"),
                "hypoechoic": (2, "Hypoechoic"),
                "markedly_hypoechoic": (3, "Markedly hypoechoic"),
            },
        ),
        "margin": Item(
            "Margin",
            "margin",
            choices={"smooth": (1, "Smooth"), "ill_defined": (2, "Ill defined"), "irregular": (3, "Irregular")},
        ),
        "tirads": Item(
            "Kwak TI-RADS", "tirads", choices={"3": (1, "3"), "4A": (2, "4A"), "4B": (3, "4B"), "4C": (4, "4C"), "5": (5, "5")}
        ),
        "tsh": Item("TSH", "tsh", "laboratory", note="mIU/L", decimals=2),
        "tg": Item("Thyroglobulin", "tg", "laboratory", note="ng/mL"),
        "calcitonin": Item("Calcitonin", "calcitonin", "laboratory", note="pg/mL", decimals=2),
        "braf": Item("BRAF V600E", "braf", "laboratory", {True: (1, "V600E"), False: (0, "Wild type")}),
        "llnm": Item("Lateral node metastasis (pathology)", "llnm", "outcome", {True: (1, "Yes"), False: (0, "No")}),
    },
    views={
        "bmode_transverse": ViewExport("THY TRANS"),
        "bmode_longitudinal": ViewExport("THY LONG"),
        "doppler": ViewExport("THY CFM", share=0.9),
    },
    image_columns=("record_id", "sop_instance_uid", "series", "x0", "y0", "x1", "y1"),
)

PROFILES: Mapping[str, Hospital] = {hospital.name: hospital for hospital in (_MAPLE, _BIRCH, _CEDAR, _HAZEL)}
HOSPITALS = tuple(PROFILES)  # of the demo
EXPORTS: Mapping[str, Hospital] = {**PROFILES, _ALDER.name: _ALDER}  # all that can be synthesized
