import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_model.config_file import validate
from shared_model.errors import ConfigurationError
from shared_model.protocol import StudyProtocol, read_protocol
from shared_model.variables import known_units, unit_factor

STUDY: dict[str, Any] = {
    "study": {"name": "toy", "title": "Toy", "outcome": "1"},
    "variables": {
        "age": {"kind": "numeric", "unit": "years", "range": [0, 110]},
        "driver": {"kind": "categorical", "categories": ["a", "b"], "group": "genomic"},
    },
    "images": {"views": {"t": {}, "d": {"modality": "doppler"}}, "size": 32},
    "training": {"epochs": 1},
    "federation": {"rounds": 1},
}


def protocol(**changes: Any) -> StudyProtocol:
    document = copy.deepcopy(STUDY)
    for section, values in changes.items():
        if values is None:
            document.pop(section)
        else:
            document[section] = document.get(section, {}) | values
    return validate(document, StudyProtocol, where="study.toml")


def test_modalities_are_imaging_first_in_order_of_mention():
    assert protocol().modalities == ("bmode", "doppler", "clinical", "genomic")
    assert protocol(images=None, network={"kind": "clinical_only"}).modalities == ("clinical", "genomic")


def test_the_hash_is_of_the_canonical_json_and_survives_a_round_trip():
    study = protocol()
    assert study.sha256 == hashlib.sha256(study.canonical_json.encode()).hexdigest()
    assert StudyProtocol.model_validate_json(study.canonical_json).sha256 == study.sha256


def test_the_hash_ignores_spelling_and_tells_every_change(tmp_path: Path):
    text = '[study]\nname = "toy"\ntitle = "T"\noutcome = "o"\n[variables.age]\nkind = "numeric"\n'
    text += '[network]\nkind = "logistic"\n[training]\nepochs = 1\n[federation]\nrounds = 1\n'
    path = tmp_path / "study.toml"
    hashes = []
    for variant in (text, "# a comment\n" + text.replace(" = ", "="), text + "quorum = 0.5\n", text + "quorum = 0.6\n"):
        path.write_text(variant, encoding="utf-8")
        hashes.append(read_protocol(path).sha256)
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, r'"multimodal" needs \[images\]'),
        ({"variables": None}, r'"multimodal" needs \[variables\]'),
        ({"training": {"steps": 5}}, "exactly one of epochs and steps"),
        ({"training": {"momentum": 0.9}}, 'momentum belongs to "sgd"'),
        ({"network": {"width": 30}}, "multiple of heads"),
        ({"federation": {"client_rule": {"kind": "scaffold"}}}, 'use optimizer = "sgd"'),
        ({"evaluation": {"selection": "last", "patience": 3}}, "no patience"),
        ({"variables": {"x": {"kind": "numeric", "log": True}}}, "range above zero"),
        ({"variables": {"x": {"kind": "numeric", "range": [2, 1]}}}, "low < high"),
        ({"variables": {"x": {"kind": "categorical", "categories": ["a", "a"]}}}, "distinct categories"),
        ({"variables": {"x": {"kind": "numeric", "group": "bmode"}}}, "both tabular and imaging"),
        ({"variables": {"a b": {"kind": "numeric"}}}, "rename it"),
        ({"network": {"encoder": "vitb16"}}, 'did you mean "vit_b_16"'),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        protocol(**changes)


@pytest.mark.parametrize(
    ("source", "target", "variable", "factor"),
    [
        ("cm", "mm", "", 10.0),
        ("months", "years", "", 1 / 12),
        ("ng/mL", "pg/mL", "", 1000.0),
        ("mg/dL", "g/L", "", 0.01),
        ("pmol/L", "pg/mL", "calcitonin", 3.4247),  # Shen et al. 2025: 1 pg/mL = 0.292 pmol/L
        ("pmol/L", "ng/dL", "ft4", 0.077687),  # the usual 12.87 pmol/L in 1 ng/dL
        ("mmol/L", "mg/dL", "cholesterol", 38.665),
        ("IU/L", "kIU/L", "", 0.001),
    ],
)
def test_units_convert(source, target, variable, factor):
    assert unit_factor(source, target, variable=variable) == pytest.approx(factor, rel=1e-4)
    assert unit_factor(target, source, variable=variable) == pytest.approx(1 / factor, rel=1e-4)


@pytest.mark.parametrize(("source", "target"), [("mm", "years"), ("pmol/L", "pg/mL"), ("nonsense", "mm"), ("mm", "nonsense")])
def test_units_of_other_quantities_do_not(source, target):
    assert unit_factor(source, target) is None


def test_a_unit_of_ones_own_converts_to_itself_only():
    assert unit_factor("beats", "beats") == 1.0
    assert known_units("beats") == ("beats",)


@given(st.sampled_from(known_units("pg/mL", variable="ft4")), st.sampled_from(known_units("pg/mL", variable="ft4")))
def test_known_units_convert_both_ways(one, other):
    there, back = unit_factor(one, other, variable="ft4"), unit_factor(other, one, variable="ft4")
    assert there is not None
    assert back is not None
    assert there * back == pytest.approx(1.0)
