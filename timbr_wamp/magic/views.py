"""The results of verbs: values of the contract with a display for notebooks and terminals.

Lists are lists and statuses keep their attributes, so that programs can use them: ``rows = %wamp records
100``. All texts are escaped in HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from timbr_wamp.contract import KernelInfo, RevisionInfo, Status
from timbr_wamp.contract.displayable import Displayable
from timbr_wamp.faces.preview import never_raises
from timbr_wamp.faces.tables import Oids, Rows
from timbr_wamp.tables import StatusTable, html_text, printable, timestamp

#: Longest text of a problem, in characters.
PROBLEM_LIMIT = 1000


class Text(str):
    """A text that displays without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Told(Text):
    """A text that displays with the machine that it is about before it."""

    def __new__(cls, text: str, target: str = "") -> Told:
        """``target``: the machine, as `target_text` returns it."""
        made = super().__new__(cls, text)
        made.target = target
        return made

    target: str

    def __repr__(self) -> str:
        return f"{self.target}: {self!s}"


class ToldOids(Oids):
    """Message ids that display with the machine that has the messages before them."""

    def __init__(self, oids: Sequence[str], target: str) -> None:
        super().__init__(oids)
        self.target = target

    def __repr__(self) -> str:
        return f"{self.target}: {super().__repr__()}"


class Kernels(Rows[KernelInfo]):
    """Kernels with all their details."""

    item = KernelInfo

    headers = ("id", "name", "host", "state", "language", "pid", "managed", "restarts", "machines", "started", "folder")
    empty = "no kernels on the router"

    def cells(self, item: KernelInfo) -> Sequence[object]:
        """Return the cells of a kernel."""
        return (
            item.kernel_id,
            item.name,
            item.host,
            item.state,
            f"{item.language} {item.language_version}".strip(),
            item.pid,
            item.managed,
            item.restarts,
            ", ".join(machine.name for machine in item.machines),
            _time(item.started_at),
            item.cwd,
        )


class Facts:
    """Named values that display as a two-column table. The names are attributes.

    Args:
        title: the table's title.
        facts: the values.
        shown: texts that are displayed in place of values.
    """

    def __init__(self, title: str, facts: dict[str, object], shown: dict[str, str] | None = None) -> None:
        self.title = title
        self._facts, self._shown = facts, shown or {}

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("_facts", {})
        if name not in facts:
            raise AttributeError(f"{self.__dict__.get('title', 'it')} has no {name!r}")
        return facts[name]

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._facts})

    def _table(self) -> StatusTable:
        shown = {**self._facts, **self._shown}
        facts = {name: value for name, value in shown.items() if value not in (None, [], "")}
        return StatusTable(rows=list(facts.items()), title=self.title, empty="")

    @never_raises()
    def __repr__(self) -> str:
        return str(self._table()).rstrip()

    @never_raises(html=True)
    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


class StructView:
    """Wraps a struct of the wire so that its ``repr`` is its display. It has the struct's attributes."""

    def __init__(self, struct: Displayable, target: str | None = None) -> None:
        """``target``: the machine that it is about, as `target_text` returns it, where that is to be displayed."""
        self.struct, self.target = struct, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["struct"], name)

    def __dir__(self) -> list[str]:
        return dir(self.struct)

    def __repr__(self) -> str:
        return str(self.struct) if self.target is None else f"{self.target}:\n{self.struct}"

    def _repr_html_(self) -> str:
        before = "" if self.target is None else f"<div>{html_text(self.target)}:</div>"
        return before + self.struct._repr_html_()


class StatusView:
    """The result of ``%wamp status``: connection, kernel, machine, failed callbacks.

    It also has the attributes of the machine's `Status`.
    """

    def __init__(
        self,
        connection: Facts,
        kernel: KernelInfo | None,
        machine: Status | None,
        problem: str | None,
        callbacks: Facts,
    ) -> None:
        self.connection, self.kernel, self.machine = connection, kernel, machine
        #: Why kernel or machine are missing.
        self.problem = problem
        self.callbacks = callbacks

    def __getattr__(self, name: str) -> Any:
        machine = self.__dict__.get("machine")
        if machine is None or name.startswith("_"):
            raise AttributeError(f"the status has no {name!r}" + ("" if machine else " (no machine)"))
        return getattr(machine, name)

    def _parts(self) -> list[Facts | StructView]:
        parts: list[Facts | StructView] = [self.connection]
        if self.kernel is not None:
            parts.append(kernel_facts(self.kernel))
        if self.machine is not None:
            parts.append(StructView(self.machine))
        if self.callbacks.subscriptions:
            parts.append(self.callbacks)
        return parts

    def __repr__(self) -> str:
        return "\n".join(
            [*map(repr, self._parts()), *([printable(self.problem, PROBLEM_LIMIT)] if self.problem else [])]
        )

    def _repr_html_(self) -> str:
        problem = f"<p>{html_text(self.problem, PROBLEM_LIMIT)}</p>" if self.problem else ""
        return "".join(part._repr_html_() for part in self._parts()) + problem


def kernel_facts(kernel: KernelInfo) -> Facts:
    """Return the details of a kernel for display."""
    facts: dict[str, object] = {name: getattr(kernel, name) for name in kernel.__struct_fields__}
    facts["machines"] = ", ".join(f"{machine.name} ({machine.state})" for machine in kernel.machines)
    for name in ("wamp_session", "protocol_version", "time", "language", "language_version", "kernel_id", "name"):
        facts.pop(name)
    facts["started_at"] = _time(kernel.started_at)
    return Facts(f"kernel {kernel.name} ({kernel.kernel_id}): {kernel.state}", facts)


def target_text(kernel: str, machine: str) -> str:
    """Return the name of a machine beside that of its kernel.

    >>> target_text("demo", "machine")
    'demo/machine'
    """
    return printable(f"{kernel}/{machine}")


def revision_facts(revision: RevisionInfo, target: str) -> Facts:
    """Return the revision that a verb made of a machine for display; ``target`` as `target_text` returns it."""
    functions = ", ".join(name or "·" for name in revision.functions)
    shown = {"time": timestamp(revision.time), "functions": functions}
    return Facts(f"{target}: revision {revision.number}: {revision.change}", msgspec.structs.asdict(revision), shown)


def _time(seconds: float | None) -> str | None:
    return timestamp(seconds) or None
