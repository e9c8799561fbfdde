"""`Plot`: the drawing of a machine's graph, for local and for remote machines."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable

from timbr_wamp.contract.structs import Graph
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
        """The graph as Mermaid text."""
        return self.graph.mermaid

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
