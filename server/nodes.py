"""Which node of Flower's belongs to which hospital: its key tells, not what it says of itself."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """A registered key: the node that SuperLink made of it, its hospital, and whether it is accepted."""

    node: int
    site: str
    accepted: bool


def read_nodes(file: Path) -> dict[str, Node]:
    """Registered keys by their hash; empty before the first registration."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {key: Node(int(row["node"]), str(row["site"]), bool(row["accepted"])) for key, row in rows.items()}


def registered_nodes(file: Path) -> dict[int, str]:
    """Names of hospitals by node, of keys that are accepted."""
    return {node.node: node.site for node in read_nodes(file).values() if node.accepted}
