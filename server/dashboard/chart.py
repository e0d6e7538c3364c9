"""The one figure of the live page: the pooled score of each model on tuning patients."""

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 14, 34


def curve_svg(curve: Sequence[tuple[int, float]], *, rounds: int, metric: str) -> Markup:
    """``curve`` of (model, score) as SVG, over ``rounds`` rounds; the score's axis spans what was seen."""
    scores = [score for _, score in curve]
    low, high = min(scores), max(scores)
    margin = max(0.08 * (high - low), 0.005)
    low, high = low - margin, high + margin

    def place(model: int, score: float) -> tuple[float, float]:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * model / max(rounds, 1)
        return x, _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - score) / (high - low)

    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in (place(*point) for point in curve))
    lines = []
    for part in range(4):
        score = low + (high - low) * part / 3
        _, y = place(0, score)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}">{score:.3f}</text>')
    ticks = sorted({round(rounds * part / 4) for part in range(5)})
    marks = "".join(f'<text class="tick" x="{place(tick, low)[0]:.1f}" y="{HEIGHT - 16}">{tick}</text>' for tick in ticks)
    name = metric.replace("_", " ").replace("auc", "AUC")
    described = (
        f"Pooled {name} on tuning patients of the models after rounds {curve[0][0]} to {curve[-1][0]}; now {scores[-1]:.3f}."
    )
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
        f'<g class="grid">{"".join(lines)}{marks}</g>'
        f'<text class="tick" x="{(WIDTH + _LEFT) / 2:.0f}" y="{HEIGHT - 2}">model after round</text>'
        f'<polyline points="{points}"/><g class="dots">{dots}</g></svg>'
    )
