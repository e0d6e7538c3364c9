from pathlib import Path

import numpy as np
import pytest

from client.cohort.tables import Table
from client.cohort.values import Source, Values, read_values
from client.site_config import Mapping
from shared_model.variables import Variable

YEARS = Variable(kind="numeric", unit="years", range=(0.0, 110.0))
MILLIMETRES = Variable(kind="numeric", unit="mm", range=(1.0, 100.0))
SEX = Variable(kind="categorical", categories=("female", "male"))
GRADE = Variable(kind="categorical", categories=("1", "2", "3"))


def values(
    variable: Variable, cells: list[str], rows: list[tuple[int, ...]] | None = None, *, decimal: str = ".", **mapping: object
) -> Values:
    table = Table(Path("t.csv"), {"c": cells}, len(cells), frozenset(), "")
    source = Source("x", variable, Mapping(column="c", **mapping), table, decimal, "site.toml", "cohort.variables")
    return read_values(source, rows if rows is not None else [(k,) for k in range(len(cells))])


def test_units_are_converted_and_missing_is_nan():
    found = values(MILLIMETRES, ["1.2", "", "0.5"], unit="cm")
    np.testing.assert_allclose(found.array, [12.0, np.nan, 5.0])
    assert found.finding.factor == 10.0
    assert found.finding.missing == 1
    assert (found.finding.low, found.finding.median, found.finding.high) == (5.0, 8.5, 12.0)
    assert found.faults == ()


def test_an_end_of_the_range_survives_the_rounding_of_a_conversion():
    bounds = Variable(kind="numeric", unit="years", range=(18.0, 90.0))
    assert not np.isnan(values(bounds, [str(18 * 12), str(90 * 12)], unit="months").array).any()


def test_implausible_values_become_missing_and_are_counted():
    found = values(YEARS, ["40", "999", "50", "-3", "60"], unit="years")
    np.testing.assert_array_equal(found.array, [40, np.nan, 50, np.nan, 60])
    assert found.finding.out_of_range == 2


def test_a_unit_that_cannot_be_right_is_a_fault_that_names_the_right_one():
    (fault,) = values(MILLIMETRES, ["0.7", "0.5", "0.9", "1.5"], unit="mm").faults
    assert fault.key == "cohort.variables.x.unit"
    assert "median 0.8 mm" in fault.found
    assert 'is 8 mm: set unit = "cm"' in fault.remedy


def test_a_wrong_column_has_no_better_unit():
    (fault,) = values(YEARS, ["1e9", "2e9"], unit="years").faults
    assert "check column and unit" in fault.remedy


def test_a_better_unit_is_only_hinted_at_while_most_values_are_plausible():
    found = values(MILLIMETRES, ["0.7", "1.5", "2.5"], unit="mm")
    assert found.faults == ()
    assert found.finding.better_unit == "cm"


def test_values_that_mean_missing_are_neither_implausible_nor_counted():
    found = values(MILLIMETRES, ["0", "0.0", "0", "20"], unit="mm", missing=(0,))
    np.testing.assert_array_equal(found.array, [np.nan, np.nan, np.nan, 20])
    assert found.finding.out_of_range == 0
    assert found.faults == ()


def test_cells_that_are_no_number_are_counted_by_text_and_may_be_coded():
    cells = ["40", "<1", "<1", "unknown"]
    assert values(YEARS, cells, unit="years").finding.no_number == {"<1": 2, "unknown": 1}
    found = values(YEARS, cells, unit="months", codes={"<1": 6})
    np.testing.assert_allclose(found.array, [40 / 12, 0.5, 0.5, np.nan])


def test_a_decimal_comma():
    np.testing.assert_array_equal(values(YEARS, ["41,5", "3"], unit="years", decimal=",").array, [41.5, 3])


def test_codes_are_compared_as_text_and_as_numbers():
    np.testing.assert_array_equal(values(SEX, ["1", "1.0", "2", "01"], codes={"1": "male", "2": "female"}).array, [1, 1, 0, 1])
    np.testing.assert_array_equal(values(GRADE, ["1.0", "3", "2"]).array, [0, 2, 1])


def test_unmapped_codes_become_missing_and_are_counted():
    found = values(SEX, ["F", "M", "u", "u", ""], codes={"F": "female", "M": "male"})
    np.testing.assert_array_equal(found.array, [0, 1, np.nan, np.nan, np.nan])
    assert found.finding.unmapped == {"u": 2}
    assert found.finding.categories == {"female": 1, "male": 1}
    assert found.finding.missing == 3


def test_with_codes_nothing_else_is_a_category():
    assert np.isnan(values(SEX, ["female"], codes={"F": "female"}).array).all()


@pytest.mark.parametrize(("combine", "expected"), [("first", 3.0), ("min", 1.0), ("max", 3.0), ("mean", 2.0)])
def test_several_rows_of_a_patient_are_combined_as_told(combine, expected):
    found = values(YEARS, ["", "3", "1", "2"], [(0, 1, 2, 3)], unit="years", combine=combine)
    assert found.array.tolist() == [expected]


def test_categories_are_combined_in_the_order_of_the_protocol():
    assert values(GRADE, ["2", "3", "1"], [(0, 1, 2)], combine="max").array.tolist() == [2.0]


def test_rows_that_disagree_are_a_fault_unless_a_rule_says_which_counts():
    (fault,) = values(YEARS, ["3", "1", "5"], [(0, 1), (2,)], unit="years").faults
    assert "rows of one patient: 3 and 1" in fault.found
    assert values(YEARS, ["3", "3.0", ""], [(0, 1, 2)], unit="years").array.tolist() == [3.0]


def test_nobody_has_no_values():
    found = values(YEARS, [], unit="years")
    assert found.array.shape == (0,)
    assert found.finding.median is None
    assert found.finding.missing_share == 0.0


def test_all_missing():
    found = values(YEARS, ["", ""], unit="years")
    assert np.isnan(found.array).all()
    assert found.finding.missing_share == 1.0
    assert found.faults == ()
