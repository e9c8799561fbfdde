"""`Plot`: the drawing of a machine's graph, for local and for remote machines.

Nodes may come from another process, so whatever is in their ids and labels stands there as itself. Mermaid's
flowcharts: https://mermaid.js.org/syntax/flowchart.html; Graphviz's language: https://graphviz.org/doc/info/lang.html.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from timbr_wamp.contract.structs import Graph, GraphNode
from timbr_wamp.tables import printable

logger = logging.getLogger(__name__)

#: Timeout for the ``dot`` program, in seconds.
DOT_TIMEOUT_S = 5.0


class Plot:
    """A graph that displays as Mermaid in JupyterLab 4.1 or later, as SVG when ``dot`` is installed, else as text.

    Args:
        find: finds a program's path, as `shutil.which` does.
    """

    def __init__(self, graph: Graph, find: Callable[[str], str | None] = shutil.which) -> None:
        self.graph = graph
        self._find = find

    @property
    def mermaid(self) -> str:
        """The graph as Mermaid text. It is made from the nodes, not taken from the other process."""
        return mermaid_text(self.graph.nodes)

    def svg(self) -> str | None:
        """Return the graph as SVG; None when Graphviz is not installed or fails."""
        dot = self._find("dot")
        if dot is None:
            return None
        try:
            drawing = subprocess.run(
                [dot, "-Tsvg"],
                input=dot_text(self.graph).encode(),
                capture_output=True,
                timeout=DOT_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("Graphviz could not draw the graph: %s", error)
            return None
        return drawing.stdout.decode()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        bundle = {"text/plain": str(self), "text/vnd.mermaid": self.mermaid}
        svg = self.svg()
        if svg is not None:
            bundle["image/svg+xml"] = svg
        return bundle

    def __str__(self) -> str:
        labels = [printable(node.label) for node in self.graph.nodes]  # may come from another process
        width = max(map(len, labels))
        lines = [
            f"{label:<{width}}  ← {printable(', '.join(node.needs[::-1])) or 'nothing'}"
            for label, node in zip(labels[1:], self.graph.nodes[1:], strict=True)
        ]
        return "\n".join([f"revision {self.graph.revision}", labels[0], *lines])

    def __repr__(self) -> str:
        return str(self)


def dot_text(graph: Graph) -> str:
    """Return the graph in Graphviz's DOT language."""
    lines = [f"  {_dot_string(node.id)} [label={_dot_string(node.label)}];" for node in graph.nodes]
    lines += [f"  {_dot_string(need)} -> {_dot_string(node.id)};" for node in graph.nodes for need in node.needs]
    return "\n".join(["digraph machine {", "  rankdir=LR;", "  node [shape=box];", *lines, "}"])


def _dot_string(text: str) -> str:
    """Return a quoted string, in which nothing has a meaning; Graphviz escapes it for SVG."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def mermaid_text(nodes: Sequence[GraphNode]) -> str:
    """Return a flowchart; whatever is in a label stands there as itself.

    >>> print(mermaid_text([GraphNode(id="in", label="message"), GraphNode(id="f0", label='a"b', needs=["in"])]))
    flowchart LR
        in["message"]
        f0["a#34;b"]
        in --> f0
    """
    lines = [f'    {_mermaid_id(node.id)}["{_mermaid_label(node.label)}"]' for node in nodes]
    lines += [f"    {_mermaid_id(need)} --> {_mermaid_id(node.id)}" for node in nodes for need in node.needs]
    return "\n".join(["flowchart LR", *lines])


def _mermaid_label(label: str) -> str:
    """Write every character that may mean something as Mermaid's entity code, ``#<number>;``."""
    return "".join(c if c.isalnum() or c in " _.,:()" else f"#{ord(c)};" for c in label)


def _mermaid_id(text: str) -> str:
    """Return an id without anything that may mean something; ours have nothing of the kind."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", printable(text))
