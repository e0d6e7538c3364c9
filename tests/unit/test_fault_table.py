from pathlib import Path

from tests.faults.table import BEGIN, END, Row, faults, rows_in, with_rows

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_faults_of_the_suite_and_no_others() -> None:
    shown = {row.name: (row.where, row.done, row.expected) for row in rows_in(README.read_text(encoding="utf-8"))}
    assert shown == {fault.name: (fault.where, fault.done, fault.expected) for fault in faults()}


def test_names_are_unique_and_every_row_fits_a_table() -> None:
    rows = faults()
    assert len({fault.name for fault in rows}) == len(rows)
    assert all("|" not in text and "\n" not in text for fault in rows for text in (fault.name, fault.done, fault.expected))


def test_a_run_of_a_part_keeps_the_other_rows() -> None:
    first, second = faults()[:2]
    text = f"before\n{BEGIN}\n{END}\nafter"
    rows = [Row(f.where, f.name, f.done, f.expected, "went on", "yes", "3") for f in (second, first)]
    both = with_rows(text, rows)
    assert rows_in(both)[:2] == rows[::-1]
    assert {row.held for row in rows_in(both)[2:]} == {"not run"}
    again = with_rows(both, [Row(first.where, first.name, first.done, first.expected, "stopped", "**no**", "4")])
    assert [row.happened for row in rows_in(again)][:3] == ["stopped", "went on", "-"]
    assert again.startswith("before\n")
    assert again.endswith("\nafter")
