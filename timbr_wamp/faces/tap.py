"""`Tap`: a live sequence of the newest values of one slot.

A tap receives whole records and keeps their JSON texts; it parses them when it is read. A machine
feeds it as a sink, a client from its records.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, overload

from timbr_wamp.contract.record import outcome_kind
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.faces.preview import preview
from timbr_wamp.rows.tabular import Grid, Tabular
from timbr_wamp.values import parse_json

TAP_LIMIT = 100_000

#: ``(seq, oid, text, …)``; ``text`` is the JSON text ``[in, f0, …]``, None when it was too large to send.
_Row: TypeAlias = tuple[Any, ...]


class Tap(Tabular, Sequence[Any]):
    """A bounded sequence to which new values are appended live, newest last. Any thread.

    Args:
        label: name of the value: ``in``, ``f0`` or a slot's name.
        index: position of the value in a record's ``[in, f0, f1, …]``.
        n: number of records that are kept, the newest ones.
        errors: include records in which the slot failed or was skipped, with the value
            ``{"_exception": {…}}``. False omits them, so fewer than ``n`` values may remain.
        on_close: called once, by the first `close`.
    """

    def __init__(
        self, label: str, index: int, n: int = 50, *, errors: bool = True, on_close: Callable[[], None] | None = None
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= TAP_LIMIT:
            raise InvalidArgument("n", f"a whole number from 1 to {TAP_LIMIT}, not {n!r}")
        self.label, self.n, self._position = label, n, index
        self._errors, self._on_close = errors, on_close
        self._lock = threading.RLock()
        self._kept: deque[_Row] = deque(maxlen=n)
        #: Parsed values of kept rows, by the id of the row.
        self._parsed: dict[int, tuple[_Row, Any]] = {}
        self._closed = False

    # --- fed by a machine or a client ---

    def publish(self, rows: Sequence[_Row]) -> None:
        """Append consecutive records without parsing them. Called as a sink of a machine."""
        with self._lock:
            if not self._closed:
                self._kept.extend(rows if len(rows) <= self.n else rows[-self.n :])

    def add_row(self, seq: int, oid: str, text: bytes | str | None) -> None:
        """Append one record; ``text`` is None when it was too large to send."""
        self.publish(((seq, oid, text),))

    # --- read by people ---

    @property
    def rows(self) -> list[tuple[int, str, Any]]:
        """``(seq, oid, value)`` of each kept record, oldest first; a placeholder for a value too large to send."""
        with self._lock:
            kept, before = list(self._kept), self._parsed
        parsed: dict[int, tuple[_Row, Any]] = {}
        for row in kept:
            known = before.get(id(row))
            parsed[id(row)] = known if known is not None and known[0] is row else (row, self._value(row[2]))
        with self._lock:
            self._parsed = parsed
        found = ((row[0], row[1], value) for row, value in (parsed[id(row)] for row in kept))
        return [row for row in found if row[2] is not _ABSENT and (self._errors or outcome_kind(row[2]) == "value")]

    @property
    def oids(self) -> list[str]:
        """Message ids of the values."""
        return [oid for _, oid, _ in self.rows]

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with one line per record and ``seq`` as index; keys of mappings become columns.

        Raises:
            PluginNotInstalled: pandas is not installed.
        """
        return super().to_frame().set_index("seq")

    #: The same, by its former name.
    to_dataframe = to_frame

    def _grid(self) -> Grid:
        lines = [{"seq": seq, "oid": oid, **self._columns(value)} for seq, oid, value in self.rows]
        names = list(dict.fromkeys(name for line in lines for name in line)) or ["seq", "oid", self.label]
        return Grid(names, [[line.get(name) for name in names] for line in lines], {"seq": "int", "oid": "text"})

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._kept.clear()
            self._parsed = {}

    def close(self) -> None:
        """Stop receiving records; kept values stay readable. Idempotent."""
        with self._lock:
            self._closed, on_close, self._on_close = True, self._on_close, None
        if on_close is not None:
            on_close()

    @property
    def closed(self) -> bool:
        """The tap receives no more records."""
        return self._closed

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Any: ...
    @overload
    def __getitem__(self, number: slice) -> list[Any]: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Return one value, or a list for a slice; ``[-1]`` is the newest."""
        return [value for _, _, value in self.rows][number]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the current values."""
        return iter([value for _, _, value in self.rows])

    def __repr__(self) -> str:
        values = list(self)
        newest = ", ".join([*(["…"] if len(values) > 3 else []), *map(preview, values[-3:])])
        return f"<tap {self.label}, {len(values)} of {self.n}{', closed' if self._closed else ''}: [{newest}]>"

    def _value(self, text: bytes | str | None) -> Any:
        if text is None:
            return {"__type__": "text", "__too_large__": True}
        values = parse_json(text)
        return values[self._position] if self._position < len(values) else _ABSENT

    def _columns(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {self.label: value}
        return {f"{self.label}.{key}" if key in ("oid", "seq") else key: item for key, item in value.items()}


#: Value of a slot that the machine did not have when it made the record.
_ABSENT = object()
