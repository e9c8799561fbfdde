"""`Plot`: a machine's graph as people look at it. JupyterLab draws its Mermaid text, a terminal lists it.

Format: ``text/vnd.mermaid``, https://jupyterlab.readthedocs.io/en/stable/user/file_formats.html#mermaid.
"""

from __future__ import annotations

from typing import Any

from timbr_wamp.contract.structs import Graph, GraphNode
from timbr_wamp.tables import cleaned

#: Characters of a node's label in the list.
LABEL_LIMIT = 80


class Plot:
    """Shows a graph. ``str`` is a list of who consumes whose value, `mermaid` the text of the drawing."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @property
    def mermaid(self) -> str:
        """The drawing, for https://mermaid.js.org and all that understand it."""
        return self.graph.mermaid

    def __repr__(self) -> str:
        return f"<Plot of revision {self.graph.revision}, {len(self.graph.nodes)} nodes>"

    def __str__(self) -> str:
        labels = {node.id: cleaned(node.label, LABEL_LIMIT) for node in self.graph.nodes}
        return "\n".join(_line(node, labels) for node in self.graph.nodes)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/vnd.mermaid": self.mermaid, "text/plain": str(self)}


def _line(node: GraphNode, labels: dict[str, str]) -> str:
    needs = ", ".join(labels.get(one, one) for one in node.needs)
    return f"{labels[node.id]} ← {needs}" if needs else labels[node.id]
