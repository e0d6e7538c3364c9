"""Which column holds the patients' identifier, which the outcome, and what its codes mean."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from client.cohort.redcap import simplified
from client.cohort.tables import ROW_NUMBER, Table
from client.init.words import IDENTIFIERS, LABELS, likeness, tokens, values_of
from shared_model.protocol import Study

_MOST_CODES = 12
_LEAST_SCORE = 1.0
_SAME_START = 6  # letters: pathologic is pathology
_STAGE = re.compile(r"[a-z]{1,2}[0-9x]+[a-z]?")


@dataclass(frozen=True)
class LabelGuess:
    """The outcome's column and codes; ``evidence`` says why, ``others`` what else it might be."""

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    ignore: tuple[str, ...]
    evidence: str
    others: tuple[str, ...]


def guess_identifier(table: Table, shared: list[set[str]]) -> tuple[str, str]:
    """The column that identifies a patient, and why; ``shared`` are the cells of columns of the image table."""
    best, score, evidence = ROW_NUMBER, 1.2, "no column looks like an identifier, so the rows are numbered"
    for column, cells in table.columns.items():
        filled = [cell for cell in cells if cell]
        if len(filled) < table.rows or any("." in cell and cell.replace(".", "").isdigit() for cell in filled[:50]):
            continue
        alike, _ = likeness(column, IDENTIFIERS)
        unique = len(set(filled)) / table.rows
        common = max((len(set(filled) & other) / len(set(filled)) for other in shared), default=0.0)
        # Two things must speak for an identifier: any column of ages may be unique in a small table.
        value = 1.5 * alike + unique * (unique > 0.5) * 0.9 + common * (len(set(filled)) > 2)
        if value > score:
            known = f", and {common:.0%} of its values are in the image table" if common else ""
            best, score = column, value
            named = "is named like an identifier" if alike >= 0.5 else "holds identifiers"
            evidence = f'"{column}" {named}; {unique:.0%} of its values differ{known}'
    return best, evidence


def guess_label(table: Table, study: Study, *, taken: set[str]) -> LabelGuess | None:
    """The column of the outcome, by the words of ``study``; None if nothing speaks for any."""
    words = tokens(f"{study.outcome} {study.title} {study.name}")
    found = [
        (score, guess)
        for column in table.columns
        if column not in taken and column not in table.repeated
        for score, guess in _candidates(column, table, words)
    ]
    found.sort(key=lambda candidate: -candidate[0])
    if not found or found[0][0] < _LEAST_SCORE:
        return None
    best = found[0][1]
    others = tuple(dict.fromkeys(guess.column for score, guess in found[1:4] if score >= found[0][0] / 2))
    return LabelGuess(best.column, best.positive, best.negative, best.ignore, best.evidence, others)


def _candidates(column: str, table: Table, words: list[str]) -> Iterator[tuple[float, LabelGuess]]:
    counts = Counter(cell for cell in table.columns[column] if cell)
    if not 2 <= len(counts) <= _MOST_CODES:
        return
    labels = table.choices.get(column, {})
    meaning = {cell: simplified(labels.get(cell, cell)) for cell in counts}
    named, why = _name_score(column, words)
    filled = counts.total() / table.rows
    stages = {cell for cell, word in meaning.items() if _STAGE.fullmatch(word) and word in words}
    if stages:
        positive = tuple(sorted(cell for cell, word in meaning.items() if word in words))
        vague = {cell for cell, word in meaning.items() if word.endswith("x") or _contains_a(word, stages, meaning)}
        ignore = tuple(sorted(vague - set(positive)))
        negative = tuple(sorted(set(counts) - set(positive) - set(ignore)))
        if negative:
            evidence = f'the study\'s outcome names {", ".join(positive)}, which column "{column}" holds'
            yield 2.0 + named + filled, LabelGuess(column, positive, negative, ignore, evidence, ())
        return
    if named and (sides := _two_sides(meaning)):
        positive, negative = sides
        ignore = tuple(sorted(set(counts) - set(positive) - set(negative)))
        yield named + filled / 2, LabelGuess(column, positive, negative, ignore, why, ())


def _contains_a(word: str, stages: set[str], meaning: dict[str, str]) -> bool:
    """``N1`` may be N1b or not: it is no negative."""
    return any(meaning[stage] != word and meaning[stage].startswith(word) for stage in stages)


def _two_sides(meaning: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    names = [
        {simplified(name) for category in pair for name in values_of(category)}
        for pair in (("yes", "malignant"), ("no", "benign"))
    ]
    positive, negative = (tuple(sorted(cell for cell, word in meaning.items() if word in known)) for known in names)
    return (positive, negative) if positive and negative and len(positive) + len(negative) >= len(meaning) - 1 else None


def _name_score(column: str, words: list[str]) -> tuple[float, str]:
    own = tokens(column)
    if set(own) & _acronyms(words):
        return 3.0, f'"{column}" is short for words of the study\'s outcome'
    alike = [word for word in own if any(word == other or _same_start(word, other) for other in words)]
    share = len(alike) / len(own) if own else 0.0
    known, synonym = likeness(column, LABELS)
    first = 0.5 if alike and own and own[0] in words[:1] else 0.0
    if share:
        return 1.5 * share + first, f'"{column}" has words of the study\'s outcome: {", ".join(alike)}'
    return (1.2, f'"{column}" is a usual name of an outcome ("{synonym}")') if known == 1.0 else (0.0, "")


def _same_start(one: str, other: str) -> bool:
    return len(one) >= _SAME_START and one[:_SAME_START] == other[:_SAME_START]


def _acronyms(words: list[str]) -> set[str]:
    initials = "".join(word[0] for word in words)
    return {initials[start : start + length] for length in (3, 4, 5) for start in range(len(initials) - length + 1)}
