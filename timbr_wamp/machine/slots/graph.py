"""The slots as a graph: which slot consumes whose value, as nodes and as Mermaid text.

Mermaid's flowcharts: https://mermaid.js.org/syntax/flowchart.html. `timbr_wamp.faces.plot` shows them.
"""

from __future__ import annotations

from collections.abc import Sequence

from timbr_wamp.contract import Graph, GraphNode
from timbr_wamp.machine.slots.dependencies import dependencies_of
from timbr_wamp.machine.slots.table import Revision

#: A node's label is cut to this many characters.
LABEL_LIMIT = 80


def graph_of(revision: Revision) -> Graph:
    """Return which set slot consumes whose value."""
    dependencies = dependencies_of(revision)
    names = ["in", *(f"f{step.slot.number}" for step in revision.steps)]
    nodes = [GraphNode(id="in", label="message")]
    for step, inputs in zip(revision.steps, dependencies.inputs, strict=True):
        label = f"{step.slot.task}: {step.slot.function_name}"
        needs = [names[need] for need in sorted(inputs.needs)]
        nodes.append(GraphNode(id=f"f{step.slot.number}", label=_line(label), needs=needs))
    return Graph(revision=revision.number, nodes=nodes, mermaid=mermaid_text(nodes))


def _line(label: str) -> str:
    label = "".join(c if c.isprintable() else " " for c in label)
    return label if len(label) <= LABEL_LIMIT else label[: LABEL_LIMIT - 1] + "…"


def mermaid_text(nodes: Sequence[GraphNode]) -> str:
    """Return a flowchart; whatever is in a label stands there as itself.

    >>> print(mermaid_text([GraphNode(id="in", label="message"), GraphNode(id="f0", label='a"b', needs=["in"])]))
    flowchart LR
        in["message"]
        f0["a#34;b"]
        in --> f0
    """
    lines = [f'    {node.id}["{_mermaid_label(node.label)}"]' for node in nodes]
    lines += [f"    {need} --> {node.id}" for node in nodes for need in node.needs]
    return "\n".join(["flowchart LR", *lines])


def _mermaid_label(label: str) -> str:
    """Write every character that may mean something as Mermaid's entity code, ``#<number>;``."""
    return "".join(c if c.isalnum() or c in " _.,:()" else f"#{ord(c)};" for c in label)
