import os
from pathlib import Path

import pytest

from shared_model.config_file import Strict, did_you_mean, expand, load, read_toml, validate
from shared_model.errors import ConfigurationError, Fault


class Inner(Strict):
    number: float = 0.0
    choice: str | int | tuple[int, ...] = 0


class Outer(Strict):
    name: str
    inner: Inner = Inner()
    table: dict[str, Inner] = {}


def faults(document: dict[str, object]) -> dict[str, Fault]:
    with pytest.raises(ConfigurationError) as caught:
        validate(document, Outer, where="file.toml")
    return {fault.key: fault for fault in caught.value.faults}


def test_every_fault_of_a_file_is_told_at_once():
    found = faults({"nmae": "x", "inner": {"number": "1"}, "table": {"a": {"numbr": 1}}})
    assert set(found) == {"nmae", "name", "inner.number", "table.a.numbr"}
    assert found["name"].remedy == "add name = ..."
    assert found["nmae"].remedy == 'did you mean "name"?'
    assert found["table.a.numbr"].expected == "one of the keys number, choice"
    assert found["inner.number"].found == '"1"'


def test_a_value_that_fits_no_member_of_a_union_is_one_fault():
    found = faults({"name": "x", "inner": {"choice": 1.5}})
    assert list(found) == ["inner.choice"]
    assert " or " in found["inner.choice"].expected


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(number):
    assert list(faults({"name": "x", "inner": {"number": number}})) == ["inner.number"]


def test_integers_fill_floats_but_nothing_else_is_coerced():
    assert validate({"name": "x", "inner": {"number": 3}}, Outer, where="").inner.number == 3.0
    assert list(faults({"name": 3})) == ["name"]


def test_records_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        validate({"name": "x"}, Outer, where="").name = "y"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"name = \xff", "decode"), (b"name = x", "line 1"), (b"", "nothing")],
    ids=["absent", "no text", "no TOML", "empty"],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content, words):
    path = tmp_path / "file.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(path, Outer)
    assert caught.value.faults[0].where == str(path)
    assert caught.value.faults[0].remedy


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    path = tmp_path / "file.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'x'\r\n")
    assert read_toml(path) == {"name": "x"}


def test_expand_replaces_what_is_set_and_names_what_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HERE", "/data")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert expand("${HERE}/a/${NOT_HERE}") == ("/data/a/${NOT_HERE}", ["NOT_HERE"])
    assert "NOT_HERE" not in os.environ


def test_did_you_mean_ignores_case_and_falls_back():
    assert did_you_mean("PG/ML", ["pg/mL", "pmol/L"]) == 'did you mean "pg/mL"?'
    assert did_you_mean("xyz", ["pg/mL"], otherwise="look it up") == "look it up"
    assert did_you_mean("xyz", []) == "check its spelling"
