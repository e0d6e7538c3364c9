"""What may leave a site: one function that every reply passes, and a rule for each type of it.

The types are a closed set: a reply without a rule does not leave. What a rule takes out is said in the reply itself, in the
words of ``shared_model.disclosure``, and never breaks the study: counts become ``None``, a performance is left out.

The rules follow DataSHIELD's filters and the cell-size policy of the US Centers for Medicare & Medicaid Services: no
statistic of fewer than ``minimum_patients``, no cell of a table with 1 to ``minimum_cell`` - 1 of them, and none that follows
by subtraction.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from shared_model import secure_layout
from shared_model.disclosure import Rule, Suppression, Why, performance_on
from shared_model.errors import FailureCode, RefusedError
from shared_model.explanations import ExplanationSummary, small_cells
from shared_model.messages import (
    AnyRecord,
    CompareReply,
    ConfirmReply,
    DescribeReply,
    EvaluateReply,
    ExplainReply,
    Failure,
    KeysReply,
    Message,
    Part,
    Reply,
    SecureSumReply,
    TrainReply,
    UnmaskReply,
)
from shared_model.summaries import CategoryCounts, CohortFlow, Moments, PartCounts, Performance, ScoreHistogram, ThresholdCounts

Taken = list[Suppression]
K = TypeVar("K")


def release(message: Message[AnyRecord], *, rule: Rule, secure_sum: bool = False) -> Message[Reply]:
    """``message`` without what may not leave, and with the list of what was taken out. In a study with ``secure_sum`` no
    histogram leaves in the clear, and of a round nothing that adds up.

    Raises:
        RefusedError: no rule says what of such a record may leave.
    """
    rule_of = _RULES.get(type(message.record))
    if rule_of is None:
        raise RefusedError(FailureCode.INTERNAL, f"no rule says whether a {message.record.kind} may leave")
    record = rule_of(message.record, rule)
    return Message(_without_summed(record) if secure_sum else record, message.vectors, message.masked)


def _without_summed(record: Reply) -> Reply:
    match record:
        case TrainReply():
            return replace(record, tune=None if record.tune is None else secure_layout.without_sums(record.tune), loss=None)
        case EvaluateReply():
            return replace(record, parts=_hidden(record.parts), personal=_hidden(record.personal))
        case CompareReply():
            return replace(record, performances=_hidden(record.performances))
        case _:
            return record


def _hidden(performances: Mapping[K, Performance]) -> dict[K, Performance]:
    return {key: secure_layout.without_histogram(performance) for key, performance in performances.items()}


# ---- describe: tables of counts


def _description(reply: DescribeReply, rule: Rule) -> DescribeReply:
    taken: Taken = []
    train = reply.parts[reply.of].patients
    everybody = sum(part.patients for part in reply.parts.values())
    valued = {name: moments.count for name, moments in reply.moments.items()}
    valued |= {name: sum(counts.counts) for name, counts in reply.categories.items()}
    return replace(
        reply,
        flow=_flow(reply.flow, rule, taken),
        parts={part: _part(part, counts, rule, taken) for part, counts in reply.parts.items()},
        moments={name: _moments(name, moments, train, rule, taken) for name, moments in reply.moments.items()},
        categories={name: _categories(name, counts, train, rule, taken) for name, counts in reply.categories.items()},
        missing=_missing(reply, valued, train=train, everybody=everybody, rule=rule, taken=taken),
        modalities=_modalities(reply, valued, train=train, everybody=everybody, rule=rule, taken=taken),
        suppressed=(*reply.suppressed, *taken),
    )


def _small(count: int, rule: Rule) -> bool:
    """Whether a count says too much: of somebody, and of too few."""
    return 0 < count < rule.minimum_cell


def _flow(flow: CohortFlow, rule: Rule, taken: Taken) -> CohortFlow:
    """Small groups of patients left out are told together; if even all of them are few, so is that they were found."""
    left_out = sum(flow.excluded.values())
    if _small(left_out, rule):
        taken.append(Suppression("patients left out", Why.SMALL_CELL))
        return replace(flow, found=None, excluded={})
    by_size = sorted(flow.excluded.items(), key=lambda item: item[1])
    together = 0
    while by_size and (_small(by_size[0][1], rule) or _small(together, rule)):
        together += by_size.pop(0)[1]
    if not together:
        return flow
    taken.append(Suppression("reasons for which patients were left out", Why.SMALL_CELL))
    kept = {reason: count for reason, count in flow.excluded.items() if reason in dict(by_size)}
    return replace(flow, excluded=kept | {"other reasons": together})


def _part(part: Part, counts: PartCounts, rule: Rule, taken: Taken) -> PartCounts:
    """How many patients train is no property of one of them. How many are positive is a cell, as are the others."""
    if counts.positives is None or not (_small(counts.positives, rule) or _small(counts.patients - counts.positives, rule)):
        return counts
    taken.append(Suppression(f"positive {part} patients", Why.SMALL_CELL))
    return replace(counts, positives=None)


def _moments(name: str, moments: Moments, train: int, rule: Rule, taken: Taken) -> Moments:
    """Of too few values nothing is told. Where too few lack one, all patients count with the mean and variance of the
    others, so that nobody can tell how many it were."""
    what = f"mean and spread of {name}"
    if not moments.count:
        return moments
    if _small(moments.count, rule):
        taken.append(Suppression(what, Why.SMALL_CELL))
        return Moments()
    if _tells_values(moments, rule):
        taken.append(Suppression(what, Why.ALIKE))
        return Moments()
    if not _small(train - moments.count, rule):
        return moments
    scale = train / moments.count
    # (n - 1) times the sample variance, which Moments divides by n - 1 again.
    variance = moments.standard_deviation**2
    return Moments(train, moments.total * scale, variance * (train - 1) + train * moments.mean**2)


def _tells_values(moments: Moments, rule: Rule) -> bool:
    """Whether the values are codes 0 and 1, or 1 and 2, and their sum so tells a small cell.

    Of integers, the sum of x (x - 1) is 0 just where all are 0 or 1, and that of (x - 1) (x - 2) where all are 1 or 2.
    """
    n, total, squares = moments.count, moments.total, moments.squares
    tolerance = 1e-6 * max(1.0, squares)
    for lower in (0, 1):
        higher = total - lower * n  # patients with the higher code, if there are but the two
        if abs(squares - (2 * lower + 1) * total + lower * (lower + 1) * n) < tolerance:
            return _small(round(higher), rule) or _small(n - round(higher), rule)
    return False


def _categories(name: str, counts: CategoryCounts, train: int, rule: Rule, taken: Taken) -> CategoryCounts:
    """Small cells become 0, and so do the next larger ones until what is missing from the total is itself no small cell."""
    told = list(counts.counts)
    valued = sum(told)
    withheld = sorted((count, place) for place, count in enumerate(told) if count)
    hidden = 0
    while withheld and (_small(withheld[0][0], rule) or _small(hidden, rule)):
        count, place = withheld.pop(0)
        told[place] = 0
        hidden += count
    if hidden:
        taken.append(Suppression(f"categories of {name}", Why.SMALL_CELL))
    elif told and _small(train - valued, rule):
        # As if the few without a value were like most: else the sum of the cells would tell how many they are.
        told[told.index(max(told))] += train - valued
    return CategoryCounts(tuple(told))


def _missing(
    reply: DescribeReply, valued: Mapping[str, int], *, train: int, everybody: int, rule: Rule, taken: Taken
) -> dict[str, int | None]:
    """Patients without a value: told where neither they nor the others are few, among training patients and the rest alike
    (what is told of training patients would give away the rest)."""
    told: dict[str, int | None] = {}
    for name, missing in reply.missing.items():
        if missing is None:
            told[name] = None
            continue
        lacking = (train - valued[name], missing - (train - valued[name]))
        having = (valued[name], everybody - missing - valued[name])
        cells = (*lacking, *having, missing, everybody - missing)
        told[name] = None if any(_small(cell, rule) for cell in cells) else missing
        if told[name] is None:
            taken.append(Suppression(f"patients without {name}", Why.SMALL_CELL))
    return told


def _modalities(
    reply: DescribeReply, valued: Mapping[str, int], *, train: int, everybody: int, rule: Rule, taken: Taken
) -> dict[str, int | None]:
    """As ``_missing``; and what would tell a count of patients without a value that is not told is not told either."""
    hidden = {
        everybody - count
        for name, count in reply.missing.items()
        if count is not None and any(_small(cell, rule) for cell in (train - valued[name], count - (train - valued[name])))
    }
    told: dict[str, int | None] = {}
    for name, count in reply.modalities.items():
        if count is None:
            told[name] = None
            continue
        small = _small(count, rule) or _small(everybody - count, rule)
        told[name] = None if small or count in hidden else count
        if told[name] is None:
            taken.append(Suppression(f"patients with {name}", Why.SMALL_CELL if small else Why.DERIVABLE))
    return told


# ---- train and evaluate: performances


def _training(reply: TrainReply, rule: Rule) -> TrainReply:
    taken: Taken = []
    tune = reply.tune
    if tune is not None and (why := why_not(tune, rule)):
        taken.append(Suppression(performance_on("tune"), why))
        tune = None
    tune = None if tune is None else _coarse(tune, rule, taken, on="tune patients")
    loss = reply.loss
    if loss is not None and reply.patients < rule.minimum_patients:
        taken.append(Suppression("training loss", Why.FEW_PATIENTS))
        loss = None
    return replace(reply, tune=tune, loss=loss, suppressed=(*reply.suppressed, *taken))


def _evaluation(reply: EvaluateReply, rule: Rule) -> EvaluateReply:
    taken: Taken = []
    parts = dict(_performances(reply.parts, rule, taken, personal=False))
    personal = dict(_performances(reply.personal, rule, taken, personal=True))
    return replace(reply, parts=parts, personal=personal, suppressed=(*reply.suppressed, *taken))


def _performances(
    parts: Mapping[Part, Performance], rule: Rule, taken: Taken, *, personal: bool
) -> Iterator[tuple[Part, Performance]]:
    for part, performance in parts.items():
        if why := why_not(performance, rule):
            taken.append(Suppression(performance_on(part, personal=personal), why))
        else:
            yield part, _coarse(performance, rule, taken, on=f"{part} patients")


def why_not(performance: Performance, rule: Rule) -> Why | None:
    """Why a performance may not leave; None if it may."""
    why = _few(performance.sums.count, performance.sums.positives, rule)
    if why is None and _singles_out(performance.histogram, rule):
        return Why.ALIKE
    return why


def _singles_out(histogram: ScoreHistogram, rule: Rule) -> bool:
    """Whether all patients but a few score alike: sums and ranks then tell the outcome of those few. No model that was
    trained does so, but one that was made to ask about somebody does."""
    together = [negatives + positives for _, _, negatives, positives in histogram.cells]
    return _small(sum(together) - max(together, default=0), rule)


def _coarse(performance: Performance, rule: Rule, taken: Taken, *, on: str) -> Performance:
    """``performance`` with a histogram of merged bins, and counts at thresholds between no two of which, nor beyond which,
    are but a few patients. Where there would be, the counts are those of the threshold before, or of calling nobody."""
    if rule.minimum_cell == 1:
        return performance
    histogram, assessment = performance.histogram.coarsened(rule.minimum_cell), performance.assessment
    chosen = assessment.thresholds if assessment is not None else ()
    told = _apart([*performance.thresholds, *(found.counts for found in chosen)], rule)
    if assessment is not None:
        rules = tuple(replace(found, counts=told[found.counts.threshold]) for found in chosen)
        assessment = replace(assessment, thresholds=rules)
    thresholds = tuple(told[counts.threshold] for counts in performance.thresholds)
    if thresholds != performance.thresholds or assessment != performance.assessment:
        taken.append(Suppression(f"counts at some thresholds on {on}", Why.SMALL_CELL))
    return replace(performance, histogram=histogram, thresholds=thresholds, assessment=assessment)


def _apart(thresholds: list[ThresholdCounts], rule: Rule) -> dict[float, ThresholdCounts]:
    """Counts as they are told, by threshold."""
    told: dict[float, ThresholdCounts] = {}
    before: ThresholdCounts | None = None
    for counts in sorted(thresholds, key=lambda counts: counts.threshold):
        called = counts.true_positive + counts.false_positive
        positives = counts.true_positive + counts.false_negative
        negatives = counts.true_negative + counts.false_positive
        if before is None:
            before = ThresholdCounts(counts.threshold, true_positive=positives, false_positive=negatives)
        between = before.true_positive + before.false_positive - called
        if _small(between, rule):
            before = replace(before, threshold=counts.threshold)
        elif _small(called, rule):
            before = ThresholdCounts(counts.threshold, true_negative=negatives, false_negative=positives)
        else:
            before = counts
        told[counts.threshold] = before
    return told


def _few(patients: int, positives: int, rule: Rule) -> Why | None:
    if patients < rule.minimum_patients:
        return Why.FEW_PATIENTS
    if rule.minimum_cell > 1 and min(positives, patients - positives) < rule.minimum_cell:
        return Why.FEW_OF_A_CLASS
    return None


def _comparison(reply: CompareReply, rule: Rule) -> CompareReply:
    """Of each model, pair of models and reading, what would be told of a performance on the same patients."""
    taken: Taken = []
    performances, comparisons, readings = {}, {}, {}
    for name, performance in reply.performances.items():
        if why := why_not(performance, rule):
            taken.append(Suppression(f"performance of {name}", why))
        else:
            performances[name] = _coarse(performance, rule, taken, on=name)
    for name, pair in reply.comparisons.items():
        if why := _few(pair.patients, pair.positives, rule):
            taken.append(Suppression(f"comparison with {name}", why))
        else:
            comparisons[name] = pair
    for name, reading in reply.readings.items():
        why = _few(reading.patients, reading.positives, rule)
        if not why and _small(reading.without, rule):
            why = Why.SMALL_CELL
        if why:
            taken.append(Suppression(f"comparator {name}", why))
        else:
            readings[name] = reading
    return replace(
        reply,
        performances=performances,
        comparisons=comparisons,
        readings=readings,
        suppressed=(*reply.suppressed, *taken),
    )


# ---- explain: sums over groups of patients


def _explanation(reply: ExplainReply, rule: Rule) -> ExplainReply:
    """No cell of fewer than ``minimum_patients``, nor one that follows by subtraction. Under differential privacy the noise
    hides sizes, and taking small ones out would tell which are small."""
    if reply.private:
        return reply
    hidden = small_cells(reply.summary, minimum=rule.minimum_patients)
    few = {name for name in hidden if reply.summary.cells[name].patients < rule.minimum_patients}
    named = {".".join(name.split(".")[:2]): Why.DERIVABLE for name in sorted(hidden - few)}
    named |= {".".join(name.split(".")[:2]): Why.FEW_PATIENTS for name in sorted(few)}
    kept = {name: cell for name, cell in reply.summary.cells.items() if name not in hidden}
    taken = [Suppression(f"explanation cells of {name}", why) for name, why in named.items()]
    return replace(reply, summary=ExplanationSummary(kept), suppressed=(*reply.suppressed, *taken))


def _failure(reply: Failure, rule: Rule) -> Failure:
    return reply


def _step_of_secure_sum(reply: SecureSumReply, rule: Rule) -> SecureSumReply:
    """Keys, signatures and shares of seeds tell nothing of a patient; which of them may leave, ``secure_sum`` decides."""
    return reply


_RULES: Mapping[type, Callable[[Any, Rule], Reply]] = {
    DescribeReply: _description,
    TrainReply: _training,
    EvaluateReply: _evaluation,
    CompareReply: _comparison,
    ExplainReply: _explanation,
    Failure: _failure,
    KeysReply: _step_of_secure_sum,
    ConfirmReply: _step_of_secure_sum,
    UnmaskReply: _step_of_secure_sum,
}
