"""The slots as a graph: which slot consumes whose value, as nodes and as Mermaid text. See `timbr_wamp.faces.plot`."""

from __future__ import annotations

from timbr_wamp.contract import Graph, GraphNode
from timbr_wamp.faces.plot import mermaid_text
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
