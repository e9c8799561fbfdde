"""`Machine`: numbered slots that every message runs through, every result published.

The face that people use: an `Engine` that reads like a list of slots, shows itself in notebooks and
terminals, and lends what people ask for by name. Inside an IPython kernel it opens its local wire
by itself, so that a bridge finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from timbr_wamp import plugins
from timbr_wamp.contract import Graph
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.faces.cards import machine_html, machine_text
from timbr_wamp.faces.plot import Plot
from timbr_wamp.faces.tap import Tap
from timbr_wamp.machine.engine import Engine
from timbr_wamp.machine.intake.message_queue import remaining
from timbr_wamp.machine.slots.graph import dask_graph, graph_of
from timbr_wamp.machine.slots.table import SlotFunction, identity
from timbr_wamp.names import checked_oid, new_oid

if TYPE_CHECKING:
    from timbr_wamp.display import BarKind, LiveStatus

F = TypeVar("F", bound=Callable[..., object])


class Machine(Engine):
    """A persistent, reconfigurable, per-message data processor. Any thread may use it.

    Args:
        stages: number of slots.
        bufsize: messages that may wait.
        name: its name on the wire; the second machine of a kernel needs one of its own.
        serve: open the local wire now. None: only inside an IPython kernel.
        namespace: what source text of slots may refer to; in a kernel the user's variables.
        on_error: what becomes of a message when a slot without a policy of its own raises: a
            `Policy`, a verdict such as ``"drop"``, or a mapping of a policy's fields.
        executor: how messages run: ``"inline"``, ``"threads"``, or an object.
        concurrency: messages under way at once, for ``async def`` slots and in threads.
        journal, sinks: see `timbr_wamp.machine.protocols`.
        hooks: objects with methods named like `timbr_wamp.machine.events.hooks.POINTS`, or plugins' names.
        handler: the event handler: an object, a class or a name; see `timbr_wamp.machine.events.handlers`.
        clock: UTC seconds.
    """

    # --- a list of slots ---

    @overload
    def __getitem__(self, slot: int | str) -> SlotFunction: ...
    @overload
    def __getitem__(self, slot: slice) -> list[SlotFunction]: ...
    def __getitem__(self, slot: int | str | slice) -> SlotFunction | list[SlotFunction]:
        """Return a slot's function; of an unset slot `identity`."""
        slots = self._table.current().slots
        if isinstance(slot, slice):
            return [s.function or identity for s in slots[slot]]
        return slots[self._table.number_of(slot)].function or identity

    def __setitem__(self, slot: int | str | slice, function: Any) -> None:
        """Put a function in a slot, or several in a slice as one revision."""
        if not isinstance(slot, slice):
            self.set(slot, function)
            return
        numbers = range(len(self))[slot]
        functions = list(function)
        if len(functions) != len(numbers):
            raise InvalidArgument("functions", f"{len(functions)} for {len(numbers)} slots")
        self.assign(dict(zip(numbers, functions, strict=True)))

    def __delitem__(self, slot: int | str | slice) -> None:
        """Make a slot identity again."""
        numbers = range(len(self))[slot] if isinstance(slot, slice) else [self._table.number_of(slot)]
        self.assign(dict.fromkeys(numbers))

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self._table.current().slots)

    def __bool__(self) -> bool:
        """A machine is true, whatever its slots."""
        return True

    def __enter__(self) -> Machine:
        """Return the machine; leaving the block closes it."""
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- hooks ---

    @overload
    def hook(self, point: str) -> Callable[[F], F]: ...
    @overload
    def hook(self, point: str, function: Callable[..., object]) -> Callable[[], None]: ...
    def hook(self, point: str, function: Any = None) -> Any:
        """Run a function at a point of the machine's life: ``@m.hook("post_slot")`` or ``m.hook(point, f)``.

        The second form returns what takes it away again. Points: `timbr_wamp.machine.events.hooks.POINTS`.
        """
        if function is not None:
            return self.hooks.add(point, function)

        def add(decorated: F) -> F:
            self.hooks.add(point, decorated)
            return decorated

        return add

    def on(self, kind: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``callback(event)`` in the bus thread for events of a kind; return what ends that.

        ``"*"`` stands for every kind, ``"error"`` for slots' failures, which come as `ErrorRow`.
        """
        return self.event_log.on(kind, callback)

    # --- looking ---

    def wait(self, timeout: float | None = None, progress: bool | BarKind = False) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        When the machine does not run, it returns as soon as no message is under way any more, since
        nothing would change. ``progress`` shows a bar meanwhile: True, or which kind; Ctrl-C then
        leaves the machine running. Raises what a debugging event handler stopped the machine for.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if progress:
            from timbr_wamp.display import show_progress  # it draws with rich, which takes its time to load

            bar: BarKind = "auto" if progress is True else progress
            show_progress(
                self.progress, bar=bar, timeout_s=timeout, until=lambda: self._intake.settled or not self.running
            )
        return super().wait(remaining(deadline))

    def display_status(self, interval_s: float = 0.5, duration_s: float | None = None) -> LiveStatus:
        """Show a status card and keep it up to date.

        In a notebook it returns at once; ``.stop()`` ends it. On a terminal it returns when the
        machine rests, or at Ctrl-C.
        """
        from timbr_wamp.display import display_status

        return display_status(
            lambda: self.status, interval_s=interval_s, duration_s=duration_s, ended=lambda: self._closed
        )

    def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number."""
        if label == "in":
            index = 0
        elif isinstance(label, str) and label[:1] == "f" and label[1:].isdecimal():
            index = self._table.number_of(int(label[1:])) + 1
        else:
            index = self._table.number_of(label) + 1
        tap = Tap(str(label), index, n, on_close=lambda: self._remove_sink(tap))
        self.recorder.replace_sinks(lambda sinks: (*sinks, tap))
        return tap

    @property
    def graph(self) -> Graph:
        """Which set slot consumes whose value, as nodes and as Mermaid text."""
        return graph_of(self.slot_table())

    def plot(self) -> Plot:
        """Return the graph as something that shows itself, in a notebook or as text."""
        return Plot(self.graph)

    def dask_graph(self, message: object = None, oid: str | None = None) -> dict[str, tuple[Any, ...]]:
        """Return a message's way through the slots as a Dask graph; ``dask.get(graph, "record")`` gives its record.

        Other keys: ``in``, ``f0`` … are values, ``in_s``, ``f0_s`` … their JSON texts. Policies hold,
        but no hook and no event handler of the machine runs.
        """
        now = self._clock()
        key = new_oid(now) if oid is None else checked_oid(oid)
        return dask_graph(self.slot_table(), message, key, received_at=now, clock=self._clock)

    def _remove_sink(self, tap: Tap) -> None:
        self.recorder.replace_sinks(lambda sinks: tuple(sink for sink in sinks if sink is not tap))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write slots, policies and settings as a project's ``timbr.toml``; return the file's path.

        Raises:
            CannotSave: a function has neither a source text nor a name that can be imported.
            InvalidArgument: the file is there already, without ``overwrite``.
        """
        save: Any = plugins.load(plugins.FACES, "project")
        file: Path = save(self, path, overwrite=overwrite)
        return file

    def __repr__(self) -> str:
        status = self.status
        return (
            f"<Machine {self.name!r} {status.state}: {status.processed} processed, {status.errored} errored, "
            f"{status.queue_size} waiting, revision {status.revision}>"
        )

    def __str__(self) -> str:
        return machine_text(self.status, self.slots, self.errors)

    def _repr_html_(self) -> str:
        return machine_html(self.status, self.slots, self.errors)
