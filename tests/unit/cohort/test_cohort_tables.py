import datetime
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from client.cohort.patterns import FilePattern
from client.cohort.tables import Table, locate, number, read_table, row_filter
from client.site_config import Between, TableFormat
from shared_model.errors import CohortError, ConfigurationError, Fault

CSV = 'id,age,note\n007,41.5,None\n8,,"a, b"\n'


def read(path: Path, **layout: object) -> Table:
    return read_table(path, TableFormat(**layout), where="site.toml", key="cohort.table")


def text_table(tmp_path: Path, content: str | bytes, **layout: object) -> Table:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read(path, **layout)


def fault_of(tmp_path: Path, content: str | bytes, **layout: object) -> Fault:
    with pytest.raises(CohortError) as caught:
        text_table(tmp_path, content, **layout)
    (fault,) = caught.value.faults
    return fault


def test_cells_stay_text_and_only_the_empty_one_is_missing(tmp_path: Path):
    table = text_table(tmp_path, CSV)
    assert table.columns == {"id": ["007", "8"], "age": ["41.5", ""], "note": ["None", "a, b"]}
    assert table.column("#row") == ["1", "2"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_found(tmp_path: Path, separator, end):
    lines = ["id,x,y", "a,1,", "b,2,3", "", ",,"]
    table = text_table(tmp_path, end.join(lines).replace(",", separator))
    assert table.columns == {"id": ["a", "b"], "x": ["1", "2"], "y": ["", "3"]}


def test_a_decimal_comma_is_no_separator(tmp_path: Path):
    table = text_table(tmp_path, "1,5;2,5\n3,5;4,5\n", decimal=",", columns=("a", "b"))
    assert table.columns == {"a": ["1,5", "3,5"], "b": ["2,5", "4,5"]}


def test_a_single_column_needs_no_separator(tmp_path: Path):
    assert text_table(tmp_path, "id\na\nb\n").columns == {"id": ["a", "b"]}


def test_blanks_and_spellings_of_missing_go(tmp_path: Path):
    table = text_table(tmp_path, " id , x \n a , ? \n b, 999.0\n c, 1\n", missing=("?", 999))
    assert table.columns == {"id": ["a", "b", "c"], "x": ["", "", "1"]}


def test_columns_name_a_file_without_header(tmp_path: Path):
    assert text_table(tmp_path, "1,2\n3,4\n", columns=("a", "b")).columns == {"a": ["1", "3"], "b": ["2", "4"]}


def test_repeated_columns_are_known(tmp_path: Path):
    assert text_table(tmp_path, "a,b,a\n1,2,3\n").repeated == {"a"}


def test_trailing_separators_are_no_extra_cells(tmp_path: Path):
    assert text_table(tmp_path, "a,b\n1,2,,\n3,4\n").columns == {"a": ["1", "3"], "b": ["2", "4"]}


@pytest.mark.parametrize(
    ("content", "layout", "found", "remedy"),
    [
        (b"", {}, "empty", "export"),
        (b"\xef\xbb\xbf \n", {}, "empty", "export"),
        (b"a,b\n", {}, "no rows below the header", "export"),
        (b"\n <!DOCTYPE html><html>", {}, "web page", "export"),
        (b"\x00\x01\x02binary", {}, "binary", "export"),
        (b"\xd0\xcf\x11\xe0rest", {}, "old Excel", ".xlsx"),
        (b"PK\x03\x04rest", {}, "damaged", ".xlsx"),
        (b"PAR1rest", {}, "damaged Parquet", "export"),
        ("a;b\nä;1\n".encode("cp1252"), {}, "line 2", 'encoding = "cp1252"'),
        ("a;b\nä;1\n".encode("utf-16"), {}, "UTF-16", 'encoding = "utf-16"'),
        (b"a;b\n1;2\n", {"encoding": "utf8x"}, "utf8x", "cp1252"),
        (b"a,b\n1,2\n3,4,5\n6\n", {}, "line 3 has 3, line 4 has 1", "separator"),
        (b"1,2\n3,4\n", {"columns": ("a",)}, "line 1 has 2", "list all 2 columns"),
        (b"a,b\n1,2\n", {"columns": ("a", "b")}, "repeats the names", "remove columns"),
        (b"a,b\n1,2\n", {"separator": "ab"}, "delimiter", "separator"),
    ],
)
def test_what_is_no_table_says_so_and_what_to_do(tmp_path: Path, content, layout, found, remedy):
    fault = fault_of(tmp_path, content, **layout)
    assert found in fault.found
    assert remedy in fault.remedy
    assert fault.where == str(tmp_path / "t.csv")


def test_encodings_are_read_as_told(tmp_path: Path):
    for encoding in ("cp1252", "utf-16"):
        assert text_table(tmp_path, "a;b\nä;1\n".encode(encoding), encoding=encoding).columns["a"] == ["ä"]


def test_a_missing_file_names_its_neighbour(tmp_path: Path):
    (tmp_path / "patients.csv").write_text("a\n1\n")
    with pytest.raises(CohortError, match=r'did you mean "patients\.csv"') as caught:
        read(tmp_path / "patient.csv")
    assert caught.value.faults[0].key == "cohort.table"


def test_a_folder_is_no_table(tmp_path: Path):
    with pytest.raises(CohortError, match="directory"):
        read(tmp_path)


def test_excel_is_read_by_content_whatever_its_name(tmp_path: Path):
    book = openpyxl.Workbook()
    book.active.title = "patients"
    for row in (
        ["id", "age", "seen", "ok", None],
        [7, 41.5, datetime.datetime(2020, 1, 2), True, None],
        [None] * 5,
        [8, None, None, False, None],
    ):
        book.active.append(row)
    book.create_sheet("empty")
    path = tmp_path / "export.csv"
    book.save(path)
    expected = {"id": ["7", "8"], "age": ["41,5", ""], "seen": ["2020-01-02T00:00:00", ""], "ok": ["True", "False"]}
    assert read(path, decimal=",").columns == expected
    assert read(path, decimal=",", sheet="patients").columns == expected
    with pytest.raises(CohortError, match='did you mean "patients"'):
        read(path, sheet="patient")
    with pytest.raises(CohortError, match="no rows"):
        read(path, sheet="empty")


def test_parquet_is_the_same_table(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [7, 8], "x": [1.0, None], "s": ["None", " b"]}), path)
    assert read(path).columns == {"id": ["7", "8"], "x": ["1", ""], "s": ["None", "b"]}


def test_paths_are_relative_and_may_hold_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.delenv("NO_PLACE", raising=False)
    assert locate("a/b.csv", base=tmp_path, where="", key="") == tmp_path / "a/b.csv"
    assert locate("${PLACE}/b.csv", base=Path("/elsewhere"), where="", key="") == tmp_path / "b.csv"
    with pytest.raises(ConfigurationError, match="export NO_PLACE="):
        locate("${NO_PLACE}/b.csv", base=tmp_path, where="site.toml", key="cohort.table")


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("a", [0]),
        (("a", "b"), [0, 1]),
        (1, [2, 3]),
        ("", [4]),
        (Between(min=1), [2, 3, 5]),
        (Between(max=1.5), [2, 3]),
        (Between(min=2, max=2), [5]),
    ],
)
def test_row_filters(tmp_path: Path, condition, kept):
    table = text_table(tmp_path, "id,x\n1,a\n2,b\n3,1\n4,1.0\n5,\n6,2\n")
    assert row_filter(table, {"x": condition}, TableFormat()) == kept


def test_every_condition_of_a_filter_must_hold(tmp_path: Path):
    table = text_table(tmp_path, "x,y\n1,1\n1,2\n2,2\n")
    assert row_filter(table, {"x": 1, "y": 2}, TableFormat()) == [1]
    assert row_filter(table, {}, TableFormat()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1.5", ".", 1.5),
        (" -2e1 ", ".", -20.0),
        ("1,5", ",", 1.5),
        ("1.5", ",", None),
        ("1,5", ".", None),
        ("1,234.5", ".", None),
        ("<0.01", ".", None),
        ("nan", ".", None),
        ("inf", ".", None),
        ("1_0", ".", None),
        ("", ".", None),
    ],
)
def test_numbers(text, decimal, value):
    assert number(text, decimal=decimal) == value


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("ID", "bus_1-l"),
        ("Images/{ID}.png", "Images/bus_1-l.png"),
        ("m_{ID[4:]}.png", "m_1-l.png"),
        ("{ID[:3]}/{side}_{ID[-1:]}.png", "bus/left_l.png"),
        ("{empty}.png", ""),
    ],
)
def test_file_patterns(pattern, place):
    assert FilePattern.parse(pattern).expand({"ID": "bus_1-l", "side": "left", "empty": ""}) == place


@pytest.mark.parametrize("pattern", ["{}", "{ID", "ID}", "{ID[4]}", "{ID[a:]}", "{{ID}}", "{ID.x[1:]"])
def test_patterns_are_columns_and_slices_only(pattern):
    with pytest.raises(ValueError, match="braces"):
        FilePattern.parse(pattern)
