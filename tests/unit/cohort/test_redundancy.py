"""Variables that follow from others: sums of categories, the same number twice, and what only looks like it."""

import re

import numpy as np
import pytest

from client.preflight import preflight
from client.preflight.redundancy import redundancy_check
from client.site_config import read_site
from client.synthetic import synthesize
from server.simulation import DEMO_STUDY
from shared_model.protocol import read_protocol


def findings(count: int) -> dict[str, "np.ndarray | list[str]"]:
    rng = np.random.default_rng(0)
    margin, calcification = rng.integers(0, 3, count), rng.integers(0, 2, count)
    rare = rng.random(count) < 0.02
    return {
        "age": rng.normal(50.0, 10.0, count),
        "margin": [str(code) for code in margin],
        "calcification": [str(code) for code in calcification],
        "rare": [str(code) for code in rare],
        "noise": rng.normal(size=count),
        "score": [str(code) for code in (margin == 2).astype(int) + calcification],
    }


def test_a_sum_of_categories_is_named_with_its_parts():
    check = redundancy_check(findings(300))
    assert check.status == "warn"
    [problem] = check.problems
    assert set(re.findall(r"'(\w+)'", problem.what)) == {"score", "margin", "calcification"}


def test_the_same_number_in_another_unit_is_named_once():
    columns = findings(300)
    del columns["score"]
    columns["months"] = np.round(np.asarray(columns["age"]) * 12.0)
    check = redundancy_check(columns)
    [problem] = check.problems
    assert set(re.findall(r"'(\w+)'", problem.what)) == {"age", "months"}


def test_variables_of_their_own_pass_even_where_one_code_is_rare():
    columns = findings(300)
    del columns["score"]
    assert redundancy_check(columns).status == "pass"


def test_missing_values_are_no_value():
    columns = findings(300)
    gaps = np.random.default_rng(1).random(300) < 0.3
    columns["score"] = ["" if gap else code for gap, code in zip(gaps, columns["score"], strict=True)]
    assert len(redundancy_check(columns).problems) == 1
    columns["age"] = np.where(gaps, np.nan, columns["age"])
    columns["rare"] = ["" if gap else "0" for gap in gaps]  # one code, where it was written down
    assert len(redundancy_check(columns).problems) == 1


@pytest.mark.parametrize("columns", [{}, {"age": np.arange(300.0)}, findings(40)])
def test_too_little_to_tell_is_skipped(columns):
    assert redundancy_check(columns).status == "skip"


def test_ti_rads_of_the_demo_follows_from_what_it_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "cache"))
    site = synthesize(tmp_path, hospital="hazel", patients=200, seed=3)
    protocol = read_protocol(DEMO_STUDY).model_copy(update={"images": None})

    checks = {check.id: check for check in preflight(read_site(site), protocol, where=site, fast=True).checks}
    told = [problem.what for problem in checks["redundancy"].problems]
    assert [what.split()[0] for what in told] == ["'tirads'"]
    for part in ("echogenicity", "margin", "calcification", "taller_than_wide"):
        assert f"'{part}'" in told[0]
