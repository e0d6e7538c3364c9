"""``[explanation]``: what a study explains of its model, on whom, and what sites may tell of it."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from shared_model.config_file import Strict

if TYPE_CHECKING:
    from shared_model.protocol import StudyProtocol

Bins = Annotated[tuple[float, ...], Field(min_length=1, max_length=20)]


class RiskBy(Strict):
    """Risk by where a lesion lies: a categorical variable ``position``, and a numeric one ``distance`` cut at ``edges`` (in its
    unit; a value at an edge belongs to the bin below)."""

    position: str
    distance: str
    edges: Bins = (2.5, 5.0)


class Explanation(Strict):
    """Explanations are of at most ``patients`` of ``parts`` at a site, the tests of maps over pictures of ``pictures`` of them;
    who they are follows from the run's seed.

    A patient's contributions are divided by ``clip`` logits and scaled to an absolute sum of 1 at most, so that nobody weighs
    more in a sum. Dependence curves of numeric variables are cut at ``bins``, in standard deviations from the mean. The model
    after each of ``drift`` rounds, evenly spaced, is explained briefly.

    With ``epsilon``, each site adds Gaussian noise that makes its one summary (``epsilon``, ``delta``)-differentially private
    for a patient, and tells the shares of modalities and the sizes of variables'
    contributions only.
    """

    parts: tuple[Literal["train", "tune", "test"], ...] = Field(default=("tune", "test"), min_length=1)
    patients: int = Field(default=400, ge=1, le=100_000)
    pictures: int = Field(default=16, ge=1, le=10_000)
    clip: float = Field(default=3.0, gt=0.0)
    bins: Bins = (-1.5, -0.5, 0.5, 1.5)
    drift: int = Field(default=0, ge=0, le=20)
    risk_by: RiskBy | None = None
    epsilon: Annotated[float, Field(gt=0.0)] | None = None
    delta: Annotated[float, Field(gt=0.0, lt=0.1)] = 1e-5


def conflict(protocol: "StudyProtocol") -> str | None:
    """Why ``[explanation]`` does not go together with the rest of ``protocol``, with the remedy; None if it does."""
    settings = protocol.explanation
    if settings is None:
        return None
    cuts = [("bins", settings.bins)] + ([("risk_by.edges", settings.risk_by.edges)] if settings.risk_by else [])
    for name, edges in cuts:
        if list(edges) != sorted(set(edges)):
            return f"explanation.{name} {list(edges)} do not increase || sort them, each once"
    if settings.epsilon is not None and settings.drift:
        return "explanation.epsilon is for one summary, and drift asks for more || set explanation.drift = 0"
    if protocol.privacy.secure_sum and settings.epsilon is None:
        return (
            "under privacy.secure_sum no site's own numbers are told, and an explanation is such"
            " || set explanation.epsilon, which adds noise to each site's, or remove [explanation]"
        )
    by = settings.risk_by
    for key, name, kind in (("position", by.position, "categorical"), ("distance", by.distance, "numeric")) if by else ():
        variable = protocol.variables.get(name)
        if variable is None or variable.kind != kind:
            return f'explanation.risk_by.{key} "{name}" is no {kind} variable of the study || name one, or remove risk_by'
        if kind == "numeric" and variable.log:
            return f'explanation.risk_by.distance "{name}" is taken as logarithm || name another, or remove its log'
    return None
