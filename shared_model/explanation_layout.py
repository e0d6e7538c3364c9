"""Names and sizes of the cells of a study's explanation summaries: what may be in them, and nothing else."""

from shared_model.attribution.maps import METHODS, Method
from shared_model.attribution.sanity import STAGES
from shared_model.attribution.variables import variable_names
from shared_model.explanations import CLASSES
from shared_model.inputs import numeric_names
from shared_model.protocol import StudyProtocol
from shared_model.protocol_words import PICTURED

CHEAP: tuple[Method, ...] = ("grad_cam", "grad_cam_plus_plus", "attention_rollout")  # their cascade is followed at every stage
CURVE = 8  # sums of a deletion and insertion test: value and square of the map's two areas, and of the random orders'


def network_modalities(protocol: StudyProtocol) -> tuple[str, ...]:
    """Modalities that the protocol's network looks at, in its order."""
    kind = protocol.network.kind
    images = protocol.images.modalities if protocol.images and kind in PICTURED else ()
    return (*images, *(() if kind == "image_only" else protocol.groups))


def network_variables(protocol: StudyProtocol) -> tuple[str, ...]:
    """Variables that the protocol's network looks at, in the order of its tokens."""
    return () if protocol.network.kind == "image_only" else variable_names(protocol)


def layout(protocol: StudyProtocol, *, brief: bool = False) -> dict[str, int]:
    """Name and number of sums of every cell that a summary may have, in a fixed order. ``brief``: those of drift and
    comparisons. Empty where the protocol explains nothing."""
    if protocol.explanation is None:
        return {}
    modalities, variables = len(network_modalities(protocol)), len(network_variables(protocol))
    cells = {"modalities.share": modalities, "modalities.square": modalities, "modalities.left_out": modalities}
    if variables:
        cells |= {f"variables.{group}": 2 * variables for group in CLASSES}
        cells |= {"variables.size": variables, "variables.square": variables}
    if brief:
        return cells
    for name in network_variables(protocol):
        cells |= {f"dependence.{name}.{place}": 2 for place in range(bin_count(protocol, name))}
    if variables:
        cells |= {"faithfulness.variables": CURVE // 2, "repeat.shapley": 1, "agree.shapley": 1, "complete.variables": 2}
        if protocol.network.kind != "logistic":
            cells["attention.variables"] = 2
    if protocol.images and protocol.network.kind in PICTURED:
        for method in METHODS:
            stages = len(STAGES) if method in CHEAP else 1
            cells |= {f"faithfulness.{method}": CURVE, f"pointing.{method}": 3, f"cascade.{method}": stages}
            cells[f"repeat.{method}"] = 1
        cells["complete.integrated_gradients"] = 2
    return cells | dict.fromkeys(risk_cells(protocol), 2)


def bin_count(protocol: StudyProtocol, variable: str) -> int:
    """Points of a variable's dependence curve: bins or categories, and one for patients without a value."""
    assert protocol.explanation is not None
    if variable in numeric_names(protocol):
        return len(protocol.explanation.bins) + 2
    return len(protocol.variables[variable].categories) + 1


def risk_cells(protocol: StudyProtocol) -> list[str]:
    """Cells of risk by position and distance: each alone, then both together."""
    by = protocol.explanation.risk_by if protocol.explanation else None
    if by is None:
        return []
    positions, distances = range(len(protocol.variables[by.position].categories)), range(len(by.edges) + 1)
    alone = [f"risk.position.{place}" for place in positions] + [f"risk.distance.{place}" for place in distances]
    return alone + [f"risk.both.{position}.{distance}" for position in positions for distance in distances]
