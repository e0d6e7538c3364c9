"""Asking sites why a model says what it says, and what is checked of the answer."""

from shared_model.errors import FailureCode, RefusedError
from shared_model.explanation_layout import layout
from shared_model.explanations import Cell
from shared_model.messages import DescribeReply, ExplainReply, Message, Reply
from shared_model.protocol import StudyProtocol

_ROUNDING = 1e-6


def drift_rounds(protocol: StudyProtocol) -> tuple[int, ...]:
    """Rounds after which the model is explained briefly, evenly spaced, the last one included."""
    count, rounds = protocol.explanation.drift if protocol.explanation else 0, protocol.federation.rounds
    return tuple(sorted({max(1, round(rounds * step / count)) for step in range(1, count + 1)}))


def patients_explained(protocol: StudyProtocol, described: DescribeReply) -> int:
    """At most so many patients a summary of the site can be of."""
    settings = protocol.explanation
    return 0 if settings is None else min(settings.patients, sum(described.parts[part].patients for part in settings.parts))


def admit_explanation(
    message: Message[Reply], *, protocol: StudyProtocol, described: DescribeReply, brief: bool
) -> ExplainReply:
    """An explanation of cells that the protocol has, of no more patients than the site described, within the bounds of a
    patient's contribution (with noise, any number may come out).

    Raises:
        RefusedError: with what is wrong.
    """
    record = message.record
    if not isinstance(record, ExplainReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where an explanation was asked for")
    private = protocol.explanation is not None and protocol.explanation.epsilon is not None
    if record.private != private:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a summary {'without' if private else 'with'} noise")
    lengths, most = layout(protocol, brief=brief), patients_explained(protocol, described)
    for name, cell in record.summary.cells.items():
        if lengths.get(name) != len(cell.sums):
            raise RefusedError(FailureCode.MALFORMED_REPLY, f"a cell {name!r} of {len(cell.sums)} sums")
        if not private:
            _check_bounds(name, cell, most=most)
    return record


def _check_bounds(name: str, cell: Cell, *, most: int) -> None:
    if cell.patients != int(cell.patients) or not 0 < cell.patients <= most:
        raise RefusedError(FailureCode.WRONG_COUNT, f"a cell {name!r} of other patients than those described")
    limit = cell.patients * (1.0 + _ROUNDING)
    whole = sum(map(abs, cell.sums)) if name.startswith(("modalities.", "variables.", "dependence.")) else 0.0
    if whole > limit or any(abs(value) > limit for value in cell.sums):
        raise RefusedError(FailureCode.WRONG_COUNT, f"sums of cell {name!r} that so few patients cannot have")
