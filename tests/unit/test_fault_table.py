from tests.faults.table import BEGIN, END, Row, faults, rows_in, with_rows


def test_names_are_unique_and_every_row_fits_a_table() -> None:
    rows = faults()
    assert len({fault.name for fault in rows}) == len(rows)
    assert all("|" not in text and "\n" not in text for fault in rows for text in (fault.name, fault.done, fault.expected))


def test_a_run_of_a_part_keeps_the_other_rows() -> None:
    first, second = faults()[:2]
    text = f"before\n{BEGIN}\n{END}\nafter"
    rows = [Row(f.where, f.name, f.done, f.expected, "went on", "yes", "3") for f in (second, first)]
    both = with_rows(text, rows)
    assert rows_in(both) == rows[::-1]
    again = with_rows(both, [Row(first.where, first.name, first.done, first.expected, "stopped", "**no**", "4")])
    assert [row.happened for row in rows_in(again)] == ["stopped", "went on"]
    assert again.startswith("before\n")
    assert again.endswith("\nafter")
