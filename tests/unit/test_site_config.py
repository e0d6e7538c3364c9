from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site_config import SiteConfig, canonical_code, read_site
from shared_model.config_file import validate
from shared_model.errors import ConfigurationError

LABEL = {"column": "y", "positive": [1], "negative": [0]}
COHORT = {"table": "t.csv", "patient_id": "id", "label": LABEL}


def site(**sections: object) -> SiteConfig:
    return validate({"site": {"name": "a"}, "cohort": COHORT, **sections}, SiteConfig, where="site.toml")


def test_a_minimal_site_needs_a_name_a_table_an_identifier_and_a_label(tmp_path: Path):
    path = tmp_path / "site.toml"
    path.write_text('[site]\nname = "a"\n[cohort]\ntable = "t.csv"\npatient_id = "#row"\n[cohort.label]\ncolumn = "y"\n')
    with pytest.raises(ConfigurationError) as caught:
        read_site(path)
    assert {fault.key for fault in caught.value.faults} == {"cohort.label.positive", "cohort.label.negative"}


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"split": {"train": 0.5, "tune": 0.2, "test": 0.2}}, "split", "= 1"),
        ({"cohort": COHORT | {"label": LABEL | {"negative": ["1.0"]}}}, "cohort.label", "several"),
        ({"cohort": COHORT | {"label": LABEL | {"ignore": [0.0]}}}, "cohort.label", "several"),
        ({"cohort": COHORT | {"where": {"c": {"mn": 1}}}}, "cohort.where.c.mn", "min"),
        ({"site": {"name": "a b"}}, "site.name", "pattern"),
        ({"polcy": {}}, "polcy", "policy"),
    ],
)
def test_faults_name_the_key(sections, key, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        site(**sections)
    assert [fault.key for fault in caught.value.faults] == [key]


def test_view_is_a_column_or_all_images():
    images = {"table": "t.csv", "patient_id": "id", "file": "f"}
    with pytest.raises(ConfigurationError, match="keep one of the two"):
        site(images=images | {"view": {}})
    with pytest.raises(ConfigurationError, match="keep one of the two"):
        site(images=images | {"view": {"column": "v", "all": "bmode"}})
    assert site(images=images | {"view": {"all": "bmode"}}).images.view.all == "bmode"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, "1.0", True),
        ("001", 1, True),
        ("+1", 1, True),
        ("-0.0", 0, True),
        ("1e3", "1000", True),
        (" yes ", "yes", True),
        ("True", True, True),
        (True, 1, False),
        ("N1b", "n1b", False),
        ("1,5", "1.5", False),
        ("nan", float("nan"), True),
        ("12345678901234567890", "12345678901234567891", False),
        ("", "0", False),
        ("1_0", "10", False),
    ],
)
def test_codes_are_equal_as_text_or_as_numbers(one, other, equal):
    assert (canonical_code(one) == canonical_code(other)) is equal


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans()))
def test_a_canonical_code_is_its_own_canonical_code(value):
    assert canonical_code(canonical_code(value)) == canonical_code(value)
