"""``consilium-site init``: a first site.toml that needs few edits, whatever the export looks like."""

import csv
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.cohort.tables import Table
from client.init.guess import guess_variables, match_codes
from client.init.label import guess_label
from client.init.words import values_of
from client.synthetic import EXPORTS, synthesize
from shared_model.protocol import Study
from shared_model.variables import Variable

DEMO = Path(str(files("site_configs") / "demo" / "study.toml"))
LLNM = Path(str(files("site_configs") / "llnm_clinical" / "study.toml"))
OUTCOME = Study(name="x", title="Lateral lymph-node metastasis", outcome="lateral lymph-node metastasis (N1b) on pathology")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def drafted(out: Path, *arguments: object) -> dict[str, Any]:
    result = run("init", *arguments, "--out", out)
    assert result.exit_code == 0, result.stderr
    return tomllib.loads(out.read_text(encoding="utf-8"))


def table(columns: dict[str, list[str]]) -> Table:
    return Table(Path("t.csv"), columns, len(next(iter(columns.values()))), frozenset(), "")


@pytest.mark.parametrize("hospital", EXPORTS)
def test_a_synthetic_export_is_mapped_as_its_author_mapped_it(tmp_path, hospital, monkeypatch):
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "cache"))
    written = synthesize(tmp_path, hospital=hospital, patients=24, seed=3)
    truth = tomllib.loads(written.read_text(encoding="utf-8"))
    written.unlink()
    out = tmp_path / hospital / "draft.toml"
    draft = drafted(out, tmp_path / hospital, "--study", DEMO)
    assert draft["cohort"]["patient_id"] == truth["cohort"]["patient_id"]
    assert draft["cohort"]["label"]["column"] == truth["cohort"]["label"]["column"]
    assert set(draft["cohort"]["label"]["positive"]) == set(truth["cohort"]["label"]["positive"])
    columns = {name: mapping["column"] for name, mapping in truth["cohort"]["variables"].items()}
    assert {name: mapping["column"] for name, mapping in draft["cohort"]["variables"].items()} == columns
    for name, mapping in truth["cohort"]["variables"].items():
        found = draft["cohort"]["variables"][name]
        assert found.get("unit") in {mapping.get("unit"), "mIU/L", "uIU/mL"}, name
        codes = {code.casefold(): category for code, category in found.get("codes", {}).items()}
        told = {code.casefold(): category for code, category in mapping.get("codes", {}).items()}
        assert all(codes[code] == told[code] for code in codes if told), name
    for key in ("table", "dicom", "uid", "patient_id", "view", "roi"):
        assert draft["images"].get(key) == truth["images"].get(key), key
    result = run("check", out, "--study", DEMO, "--fast", "--json")
    checks = {check["id"]: check for check in json.loads(result.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["status"] == "fail"] == []
    assert json.loads(result.stdout)["included"] == 24


@pytest.mark.data
@pytest.mark.parametrize(
    ("export", "label", "variables"),
    [
        (
            "uci_dtc_recurrence",
            {"column": "N", "positive": ["N1b"], "negative": ["N0", "N1a"]},
            {"age": "Age", "sex": "Gender", "t_group": "T", "multifocal": "Focality", "histology": "Pathology"},
        ),
        (
            "tcga_thca",
            {"column": "pathologic_N", "positive": ["N1b"], "negative": ["N0", "N1a"], "ignore": ["N1", "NX"]},
            {
                "age": "age_at_initial_pathologic_diagnosis",
                "sex": "gender",
                "tumour_size": "neoplasm_length",
                "t_group": "pathologic_T",
                "multifocal": "primary_neoplasm_focus_type",
                "bilateral": "primary_thyroid_gland_neoplasm_location_anatomic_site",
                "ete": "extrathyroid_carcinoma_present_extension_status",
                "histology": "histological_type",
            },
        ),
    ],
)
def test_raw_public_tables(tmp_path, real_data, export, label, variables):
    draft = drafted(tmp_path / "site.toml", real_data / export, "--study", LLNM, "--name", "public")
    assert draft["cohort"]["label"] == label
    assert {name: mapping["column"] for name, mapping in draft["cohort"]["variables"].items()} == variables
    numbered = "numbers change with the order of the rows" in (tmp_path / "site.toml").read_text(encoding="utf-8")
    assert numbered == (draft["cohort"]["patient_id"] == "#row") == (export == "uci_dtc_recurrence")
    result = run("check", tmp_path / "site.toml", "--study", LLNM, "--fast", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["included"] == {"uci_dtc_recurrence": 383, "tcga_thca": 399}[export]
    assert found["parts"]["train"]["positives"] > 40


@pytest.mark.data
def test_leakage_is_flagged_where_adenopathy_is_kept(tmp_path, real_data):
    categories = '["none", "right", "left", "bilateral", "posterior", "extensive"]'
    adenopathy = f'adenopathy = {{ kind = "categorical", categories = {categories} }}\n\n[network]'
    study = tmp_path / "study.toml"
    study.write_text(LLNM.read_text(encoding="utf-8").replace("[network]", adenopathy, 1), encoding="utf-8")
    drafted(tmp_path / "site.toml", real_data / "uci_dtc_recurrence", "--study", study)
    result = run("check", tmp_path / "site.toml", "--study", study, "--fast", "--json")
    assert result.exit_code == 2
    leakage = next(check for check in json.loads(result.stdout)["checks"] if check["id"] == "leakage")
    assert leakage["status"] == "fail"
    assert all("'adenopathy'" in problem["what"] for problem in leakage["problems"])


@pytest.mark.data
def test_text_on_uncropped_pictures_is_told(tmp_path, real_data, monkeypatch):
    monkeypatch.setenv("CONSILIUM_DATA", str(real_data))
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "cache"))
    folder = files("site_configs") / "ddti"
    study = tmp_path / "study.toml"
    whole = (folder / "study.toml").read_text(encoding="utf-8").replace('crop = "lesion"', 'crop = "whole"')
    study.write_text(whole.replace("size = 128", "size = 256"), encoding="utf-8")
    status = {}
    for name, path in (("whole", study), ("lesion", folder / "study.toml")):
        result = run("check", folder / "ddti_a.toml", "--study", path, "--fast", "--json")
        status[name] = {check["id"]: check["status"] for check in json.loads(result.stdout)["checks"]}["text"]
    assert status == {"whole": "warn", "lesion": "pass"}


def test_nothing_is_written_over_unless_forced(tmp_path):
    (tmp_path / "a.csv").write_text("id,age\n1,40\n2,50\n", encoding="utf-8")
    out = tmp_path / "site.toml"
    out.write_text("mine", encoding="utf-8")
    refused = run("init", tmp_path / "a.csv", "--study", LLNM, "--out", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert out.read_text(encoding="utf-8") == "mine"
    assert run("init", tmp_path / "a.csv", "--study", LLNM, "--out", out, "--force").exit_code == 0


def test_what_is_not_found_is_said_and_the_file_still_reads(tmp_path):
    (tmp_path / "a.csv").write_text("id,age\n1,40\n2,50\n", encoding="utf-8")
    out = tmp_path / "site.toml"
    result = run("init", tmp_path / "a.csv", "--study", LLNM, "--out", out)
    assert "1 of 10 variables found" in result.stdout
    assert "no column was recognised as the outcome" in result.stdout
    assert "# tumour_size: no column found" in out.read_text(encoding="utf-8")
    checked = run("check", out, "--study", LLNM)
    assert checked.exit_code == 2
    assert "cohort.label.column" in checked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere.csv"], "no such file"), (["empty"], "no table"), (["page.csv"], "web page")],
)
def test_exports_that_cannot_be_read(tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.csv").write_text("<html>log in</html>", encoding="utf-8")
    out = tmp_path / "site.toml"
    result = run("init", *(tmp_path / argument for argument in arguments), "--out", out)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_encoding_decimal_comma_titles_and_missing_spellings(tmp_path):
    rows = ["Auszug vom 1.1.", "Fallnummer;Alter;Größe_cm;LLNM"]
    rows += [f"{k:03};{40 + k};{'k.A.' if k == 3 else f'1,{k}'};{k % 2}" for k in range(8)]
    (tmp_path / "a.csv").write_bytes("\n".join(rows).encode("cp1252"))
    cohort = drafted(tmp_path / "site.toml", tmp_path / "a.csv", "--study", LLNM)["cohort"]
    assert (cohort["encoding"], cohort["decimal"], cohort["header_row"], cohort["missing"]) == ("cp1252", ",", 2, ["k.A."])
    assert cohort["patient_id"] == "Fallnummer"
    assert cohort["variables"]["tumour_size"] == {"column": "Größe_cm", "unit": "cm"}


def test_a_redcap_export_with_its_dictionary(tmp_path):
    dictionary = [
        ["Variable / Field Name", "Field Type", "Field Label", "Choices, Calculations, OR Slider Labels", "Field Note"],
        ["record_id", "text", "Record", "", ""],
        ["sex", "radio", "Sex", "0, Female | 1, Male | -99, Not known", ""],
        ["tumour_size", "text", "Largest diameter", "", "cm"],
        ["llnm", "yesno", "Lateral nodes", "", ""],
    ]
    rows = [[str(k), str(k % 2), f"{k % 8 + 0.5}", str(k % 3 // 2)] for k in range(9)]
    rows += [["9", "-99", "-99", "0"]]
    export = [["record_id", "sex", "tumour_size", "llnm"], *rows]
    for name, rows in (("dictionary.csv", dictionary), ("export.csv", export)):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    cohort = drafted(tmp_path / "site.toml", tmp_path, "--study", LLNM)["cohort"]
    assert (cohort["table"], cohort["redcap_dictionary"]) == ("export.csv", "dictionary.csv")
    assert cohort["variables"]["sex"] == {"column": "sex", "codes": {"0": "female", "1": "male"}, "missing": [-99]}
    assert cohort["variables"]["tumour_size"] == {"column": "tumour_size", "unit": "cm", "missing": [-99]}
    text = (tmp_path / "site.toml").read_text(encoding="utf-8")
    assert "cm is in the data dictionary" in text
    assert '-99 is "Not known" in the data dictionary' in text
    assert text.count("CHECK") == 1  # of the outcome: nothing else is a guess where the dictionary says it
    result = run("check", tmp_path / "site.toml", "--study", LLNM, "--json", "--fast")
    assert json.loads(result.stdout)["variables"]["sex"]["categories"] == {"female": 5, "male": 4}


def test_without_a_study_the_demo_study_is_looked_for(tmp_path):
    (tmp_path / "a.csv").write_text("id,age,llnm\n1,40,0\n2,50,1\n", encoding="utf-8")
    out = tmp_path / "site.toml"
    draft = drafted(out, tmp_path / "a.csv")
    assert draft["cohort"]["variables"] == {"age": {"column": "age", "unit": "years"}}
    assert "no --study was given" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cells", "categories", "expected"),
    [
        (["T1a", "T1b", "T2"], ["T1", "T2"], {"T1a": "T1", "T1b": "T1", "T2": "T2"}),
        (["iso", "hypo"], ["isoechoic", "hypoechoic"], {"iso": "isoechoic", "hypo": "hypoechoic"}),
        (["0", "1", "2"], ["none", "minimal", "gross"], {"0": "none", "1": "minimal", "2": "gross"}),
        (["1", "2", "4"], ["none", "minimal", "gross"], {}),
        (["Right lobe", "Bilateral"], ["no", "yes"], {"Right lobe": "no", "Bilateral": "yes"}),
        (["red", "blue"], ["no", "yes"], {}),
        ([], ["no", "yes"], {}),
        (
            ["Papillary - usual", "Papillary Carcinoma - Follicular (>= 99%)", "Papillary - Tall Cell (>= 50%)"],
            ["papillary", "follicular_variant", "tall_cell", "follicular"],
            {
                "Papillary - usual": "papillary",
                "Papillary Carcinoma - Follicular (>= 99%)": "follicular_variant",
                "Papillary - Tall Cell (>= 50%)": "tall_cell",
            },
        ),
        (["left and right"], ["left", "right"], {}),
    ],
)
def test_codes_that_mean_a_category(cells, categories, expected):
    assert match_codes(cells, {category: values_of(category) for category in categories}).codes == expected


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"central_nodes": ["yes", "no"], "llnm": ["yes", "no"]}, ("llnm", ("yes",), ("no",), ())),
        ({"N": ["N0", "N1", "N1a", "N1b", "NX"]}, ("N", ("N1b",), ("N0", "N1a"), ("N1", "NX"))),
        ({"smoking": ["yes", "no"]}, None),
        ({"llnm": ["1", "1"]}, None),
    ],
)
def test_the_outcome_is_recognised_by_the_words_of_the_study(columns, label):
    found = guess_label(table(columns), OUTCOME, taken=set())
    assert (found and (found.column, found.positive, found.negative, found.ignore)) == label


def test_units_come_from_the_header_or_from_the_values():
    size = {"tumour_size": Variable(kind="numeric", unit="mm", range=(0.1, 150.0), log=True)}
    by_header = guess_variables(table({"Size (cm)": ["0.9", "1.2"]}), size, decimal=".", taken=set())["tumour_size"]
    assert (by_header.settings["unit"], by_header.doubts) == ("cm", ())
    age = {"age": Variable(kind="numeric", unit="years", range=(10.0, 100.0))}
    by_values = guess_variables(table({"age": ["612", "540", "999"]}), age, decimal=".", taken=set())["age"]
    assert by_values.settings["unit"] == "months"
    sentinel = guess_variables(table({"age": ["61", "54", "45", "999"]}), age, decimal=".", taken=set())["age"]
    assert (sentinel.settings["unit"], sentinel.settings["missing"]) == ("years", [999])


@pytest.mark.parametrize(("cells", "doubted"), [(["1", "2"], True), (["F", "M"], False)])
def test_a_code_without_a_code_book_is_marked(cells, doubted):
    sex = {"sex": Variable(kind="categorical", categories=("female", "male"))}
    found = guess_variables(table({"Geschlecht": cells}), sex, decimal=".", taken=set())["sex"]
    assert bool(found.doubts) is doubted
    assert found.evidence.startswith('"Geschlecht" is another name for sex')


def test_each_column_is_used_once():
    variables = {name: Variable(kind="categorical", categories=("no", "yes")) for name in ("hashimoto", "thyroiditis")}
    found = guess_variables(table({"thyroiditis": ["yes", "no"]}), variables, decimal=".", taken=set())
    assert list(found) == ["thyroiditis"]
