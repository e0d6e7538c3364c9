"""REDCap exports with their data dictionary, long tables, dates, header rows: what a real export brings along."""

import csv
from datetime import date
from pathlib import Path

import pytest

from client.cohort.dates import parsed_dates
from client.cohort.redcap import parsed_choices
from shared_model.errors import CohortError, ConfigurationError

HEADINGS = [
    "Variable / Field Name",
    "Form Name",
    "Field Type",
    "Field Label",
    "Choices, Calculations, OR Slider Labels",
    "Field Note",
]
FIELDS = [
    ["record_id", "base", "text", "Record", "", ""],
    ["sex", "base", "radio", "Sex at birth", "1, Male | 2, Female | 9, Not stated", ""],
    ["size", "ultrasound", "text", "Largest diameter", "", "cm"],
    ["foci", "ultrasound", "checkbox", "Foci", "1, several | 2, calcified", ""],
    ["llnm", "pathology", "yesno", "Lateral nodes", "", ""],
]
STUDY = {
    "variables": {
        "age": None,
        "sex": {"kind": "categorical", "categories": ["female", "male"]},
        "size": {"kind": "numeric", "unit": "mm", "range": [1, 100], "log": False},
        "several": {"kind": "categorical", "categories": ["No", "Yes"]},
    },
    "images": None,
    "network": {"kind": "clinical_only"},
}
SITE = {
    "cohort": {
        "table": "export.csv",
        "patient_id": "record_id",
        "redcap_dictionary": "dictionary.csv",
        "label": {"column": "llnm", "positive": ["Yes"], "negative": ["No"]},
        "variables": {"age": None, "size": None, "sex": None, "several": {"column": "foci___1"}},
    },
    "images": None,
}


def write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def redcap(hospital):
    """Six patients; each has a base row, and one or two visits of a repeating instrument at the first event."""
    write(hospital.folder / "dictionary.csv", [HEADINGS, *FIELDS])
    header = [
        "record_id", "redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance",
        "sex", "size", "foci___1", "foci___2", "llnm",
    ]  # fmt: skip
    rows = []
    for k in range(6):
        rows.append([str(k), "first", "", "", "9" if k == 5 else str(1 + k % 2), "", "", "", str(int(k < 2))])
        rows.append([str(k), "first", "ultrasound", "1", "", f"{1 + k}", str(k % 2), "0", ""])
        rows.append([str(k), "later", "ultrasound", "2", "", f"{1.5 + k}", str(k % 2), "0", ""])
        rows.append([str(k), "first", "phone_call", "1", "", "99", "", "", ""])
    write(hospital.folder / "export.csv", [header, *rows])
    return hospital


def changed(**cohort):
    return {**SITE, "cohort": {**SITE["cohort"], **cohort}}


def test_choices_keep_commas_in_labels_and_negative_codes():
    assert parsed_choices("1, Male | 2, Female, or other |-99, Unknown") == {
        "1": "Male",
        "2": "Female, or other",
        "-99": "Unknown",
    }


def test_fields_named_as_variables_need_no_mapping(redcap):
    site = changed(redcap_events=["first"], redcap_instruments=["ultrasound"])
    cohort = redcap.load(site, STUDY)
    found = cohort.findings.variables
    assert found["sex"].column == "sex"
    assert found["sex"].categories == {"female": 2, "male": 3}
    assert found["sex"].unmapped == {"9": 1}
    assert (found["size"].unit, found["size"].median) == ("cm", 35.0)  # 1..6 cm
    assert cohort.tensors.label.tolist() == [1, 1, 0, 0, 0, 0]


def test_a_ticked_checkbox_is_yes(redcap):
    found = redcap.load(changed(redcap_events=["first"], redcap_instruments=["ultrasound"]), STUDY).findings.variables
    assert found["several"].categories == {"No": 3, "Yes": 3}


@pytest.mark.parametrize(("combine", "median"), [("first", 35.0), ("last", 40.0), ("max", 40.0), ("mean", 37.5)])
def test_repeated_instruments_are_combined_as_told(redcap, combine, median):
    variables = {**SITE["cohort"]["variables"], "size": {"column": "size", "unit": "cm", "combine": combine}}
    cohort = redcap.load(changed(redcap_instruments=["ultrasound"], variables=variables), STUDY)
    assert cohort.findings.variables["size"].median == median


def test_repeats_that_differ_are_an_error_unless_told(redcap):
    with pytest.raises(CohortError, match="combine"):
        redcap.load(changed(redcap_instruments=["ultrasound"]), STUDY)


@pytest.mark.parametrize("label", [{"positive": [1], "negative": [0]}, {"positive": ["Yes"], "negative": ["No"]}])
def test_codes_and_labels_both_name_an_outcome(redcap, label):
    site = changed(redcap_events=["first"], redcap_instruments=[], label={"column": "llnm", **label})
    assert redcap.load(site, STUDY).tensors.label.sum() == 2


def test_an_unknown_event_or_instrument_is_named(redcap):
    with pytest.raises(ConfigurationError) as error:
        redcap.load(changed(redcap_events=["frist"], redcap_instruments=["ultrasuond"]), STUDY)
    assert [fault.key for fault in error.value.faults] == ["cohort.redcap_events", "cohort.redcap_instruments"]
    assert 'did you mean "first"?' in str(error.value)


def test_a_dictionary_that_is_none_is_told(redcap):
    write(redcap.folder / "dictionary.csv", [["a", "b"], ["1", "2"]])
    with pytest.raises(CohortError, match="data dictionary"):
        redcap.load(changed(), STUDY)


def test_a_long_table_gets_a_column_for_each_measurement(hospital, rows):
    long = [["id", "llnm", "test", "result"]]
    for row in rows:
        long += [[row["id"], row["llnm"], "age", str(row["age"])], [row["id"], row["llnm"], "size_cm", row["size_cm"]]]
    write(hospital.folder / "long.csv", [[str(cell) for cell in line] for line in long])
    site = {"cohort": {"table": "long.csv", "long": {"name": "test", "value": "result"}, "variables": {"sex": None}}}
    found = hospital.load(site).findings.variables
    assert found["age"].median == 35.5
    assert found["size"].median == pytest.approx(15.5)
    with pytest.raises(CohortError, match="no column"):
        hospital.load({"cohort": {**site["cohort"], "long": {"name": "tset", "value": "result"}}})


def test_an_age_from_two_dates(hospital, rows):
    for k, row in enumerate(rows):
        row |= {"born": f"{1 + k}.2.1970", "operated": f"2020-02-{1 + k:02}" if k else ""}
    hospital.write("patients.csv", rows)
    found = hospital.load({"cohort": {"variables": {"age": {"column": None, "unit": None, "from": "born", "to": "operated"}}}})
    age = found.findings.variables["age"]
    assert (age.missing, age.column) == (1, "born to operated")
    assert age.median == pytest.approx(50.0, abs=0.01)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2021-04-03", "2021-04-03T10:00:00"], date(2021, 4, 3)),
        (["3.4.2021"], date(2021, 4, 3)),
        (["03/04/2021", "25/12/2020"], date(2021, 4, 3)),
        (["04/03/2021", "12/25/2020"], date(2021, 4, 3)),
        (["04/04/2021"], date(2021, 4, 4)),
    ],
)
def test_dates_as_they_are_written(cells, expected):
    assert parsed_dates(cells, None)[0] == expected


@pytest.mark.parametrize("cells", [["03/04/2021"], ["31.2.2021"], ["yesterday"], ["2021"]])
def test_what_is_no_date_or_may_be_two_is_refused(cells):
    with pytest.raises(ValueError, match=r"is no date|month first"):
        parsed_dates(cells, None)


def test_dates_that_cannot_be_read_are_told_with_the_remedy(hospital, rows):
    for row in rows:
        row |= {"born": "03/04/1970", "operated": "04/05/2020"}
    hospital.write("patients.csv", rows)
    mapping = {"column": None, "unit": None, "from": "born", "to": "operated"}
    with pytest.raises(CohortError, match="date_order"):
        hospital.load({"cohort": {"variables": {"age": mapping}}})
    site = {"cohort": {"date_order": "dmy", "variables": {"age": mapping}}}
    assert hospital.load(site).findings.variables["age"].median == pytest.approx(50.08, abs=0.01)
    with pytest.raises(ConfigurationError, match="from"):
        hospital.config({"cohort": {"variables": {"age": {"column": None, "from": "born"}}}})


def test_titles_above_and_rows_below_the_names(hospital, rows):
    plain = (hospital.folder / "patients.csv").read_text(encoding="utf-8").splitlines()
    codes = ",".join(f"CDE:{k}" for k in range(plain[0].count(",") + 1))
    (hospital.folder / "patients.csv").write_text("\n".join(["Export of today", plain[0], codes, *plain[1:]]), encoding="utf-8")
    cohort = hospital.load({"cohort": {"header_row": 2, "skip_rows": 1}})
    assert len(cohort) == len(rows)


def test_values_and_gaps_by_outcome(hospital, rows):
    for row in rows:
        if row["llnm"]:
            row["size_cm"] = ""
    hospital.write("patients.csv", rows)
    findings = hospital.load().findings
    size = findings.variables["size"].by_outcome
    assert (size["negative"].patients, size["negative"].missing, size["positive"].missing) == (8, 0, 4)
    assert size["positive"].quartiles is None
    assert size["negative"].quartiles[1] == pytest.approx(16.0)
    assert findings.variables["sex"].by_outcome["positive"].categories == {"female": 2, "male": 2}
    assert any("100% of positive and 0% of negative" in notice.what for notice in findings.notices)
