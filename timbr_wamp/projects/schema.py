"""Read and check ``timbr.toml`` strictly, and report all problems at once.

This module checks the form: keys, types, ranges, unique numbers and names of slots.
`timbr_wamp.projects.project` checks that source texts compile and references can be imported.
"""

from __future__ import annotations

import re
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from timbr_wamp.contract import Policy, SourceOptions, Verdict
from timbr_wamp.contract.policies import checked_policy
from timbr_wamp.errors import InvalidArgument, InvalidName, InvalidProject, InvalidSetting, counted, what_there_is
from timbr_wamp.machine.intake.admission import option_problems
from timbr_wamp.machine.intake.message_queue import checked_capacity
from timbr_wamp.machine.machine import checked_machine_name
from timbr_wamp.machine.running.context import checked_concurrency
from timbr_wamp.machine.slots.table import checked_stages
from timbr_wamp.names import DEFAULT_MACHINE
from timbr_wamp.settings import read_toml, settings_of_file

__all__ = ["MachineEntry", "ProjectFile", "SlotEntry", "SourceEntry", "read_project"]

#: ``module:name`` or ``package.module:name.of.part``.
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table"}


class MachineEntry(msgspec.Struct, kw_only=True, frozen=True):
    """The table ``[machine]``."""

    name: str = DEFAULT_MACHINE
    stages: int = 8
    bufsize: int = 1024
    executor: str = "inline"
    concurrency: int = 1
    #: Policy of slots without a policy of their own.
    on_error: Policy | None = None


class SlotEntry(msgspec.Struct, kw_only=True, frozen=True):
    """A table of ``[[slots]]``, with ``source`` or ``function``."""

    slot: int
    name: str | None = None
    #: Source text whose last statement is the function.
    source: str | None = None
    #: ``module:name``.
    function: str | None = None
    policy: Policy | None = None


class SourceEntry(SourceOptions, kw_only=True, frozen=True):
    """The table ``[source]``: ``source`` or ``function``, and the options."""

    source: str | None = None
    function: str | None = None
    #: Expected number of messages.
    total: int | None = None

    @property
    def options(self) -> SourceOptions:
        """The options as a struct of the contract."""
        return SourceOptions(**{name: getattr(self, name) for name in SourceOptions.__struct_fields__})


class ProjectFile(msgspec.Struct, kw_only=True, frozen=True):
    """The whole file."""

    machine: MachineEntry = MachineEntry()
    slots: list[SlotEntry] = []
    source: SourceEntry | None = None
    #: See `timbr_wamp.settings.Settings`.
    settings: dict[str, Any] = {}


def sparse(part: SourceOptions | Policy) -> dict[str, Any]:
    """Return the fields that are not at their defaults."""
    built, defaults = msgspec.to_builtins(part), msgspec.to_builtins(type(part)())
    return {key: value for key, value in built.items() if value != defaults[key]}


def read_project(path: Path) -> ProjectFile:
    """Read a project's file.

    Raises:
        InvalidProject: it is missing, not valid TOML, or has problems; the error lists all of them.
    """
    try:
        tables = read_toml(path)
    except OSError as error:
        raise InvalidProject(str(path), [f"cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise InvalidProject(str(path), [f"not readable as TOML: {error}"]) from None
    reader = _Reader(path)
    project = reader.project(tables)
    if reader.problems:
        raise InvalidProject(str(path), reader.problems)
    return project


E = TypeVar("E", MachineEntry, SlotEntry, SourceEntry)


class _Reader:
    """Reads tables into entries and collects their problems."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[str] = []

    def project(self, tables: Mapping[str, object]) -> ProjectFile:
        self._unknown(tables, ProjectFile.__struct_fields__, "")
        machine = self._entry(tables.get("machine", {}), MachineEntry, "machine") or MachineEntry()
        rows = tables.get("slots", [])
        if not isinstance(rows, list):
            self.problems.append("slots: write [[slots]], one table per slot")
            rows = []
        slots = [self._entry(row, SlotEntry, f"slots[{n}]") for n, row in enumerate(rows)]
        source = self._entry(tables["source"], SourceEntry, "source") if "source" in tables else None
        self._check_machine(machine)
        for n, slot in enumerate(slots):
            if slot is not None:
                self._check_function(slot, f"slots[{n}]")
        self._check_slots([slot for slot in slots if slot is not None], machine.stages)
        if source is not None:
            self._check_function(source, "source")
            self._check_source(source)
        try:
            settings_of_file(self._path)
        except (InvalidSetting, InvalidName) as error:
            self.problems.append(f"settings: {error}")
        given = tables.get("settings", {})
        return ProjectFile(
            machine=machine,
            slots=[slot for slot in slots if slot is not None],
            source=source,
            settings=given if isinstance(given, dict) else {},
        )

    # --- keys and types ---------------------------------------------------------------------

    def _entry(self, table: object, kind: type[E], where: str) -> E | None:
        """Return the entry with its valid values; None when it is not usable."""
        if not isinstance(table, dict):
            self.problems.append(f"{where}: {table!r} is not a table")
            return None
        self._unknown(table, kind.__struct_fields__, f"{where}.")
        hints, good = get_type_hints(kind), {}
        for name, value in table.items():
            if name in hints:
                good.update(self._value(f"{where}.{name}", name, value, hints[name]))
        if kind is SlotEntry and "slot" not in good:
            if "slot" not in table:
                self.problems.append(f"{where}.slot: missing; write the slot's number, such as slot = 0")
            return None
        return kind(**good)

    def _unknown(self, table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
        for name in table:
            if name not in known:
                self.problems.append(f"{where}{name}: unknown{what_there_is(name, 'known keys', known)}")

    def _value(self, where: str, name: str, value: object, hint: Any) -> dict[str, Any]:
        if Policy in get_args(hint):
            return self._policy(where, name, value)
        try:
            return {name: msgspec.convert(value, hint)}
        except msgspec.ValidationError:
            self.problems.append(f"{where}: {value!r} is not {_type_text(hint)}")
            return {}

    def _policy(self, where: str, name: str, value: object) -> dict[str, Any]:
        """Read a verdict or the table of a policy; each invalid key is a separate problem."""
        if isinstance(value, dict):
            before = len(self.problems)
            self._unknown(value, Policy.__struct_fields__, f"{where}.")
            for key, hint in get_type_hints(Policy).items():
                if key in value:
                    self._value(f"{where}.{key}", key, value[key], hint)
            if len(self.problems) > before:
                return {}
        elif not isinstance(value, str):
            self.problems.append(f"{where}: {value!r} is neither a table nor one of {', '.join(get_args(Verdict))}")
            return {}
        try:
            return {name: checked_policy(value, where)}
        except InvalidArgument as error:
            self.problems.append(f"{error.name}: {error.problem}")
            return {}

    # --- values and relations --------------------------------------------------------------

    def _check_machine(self, machine: MachineEntry) -> None:
        """Check the machine's settings as the machine does."""
        checks: tuple[tuple[str, Callable[[Any], object]], ...] = (
            ("name", checked_machine_name),
            ("stages", checked_stages),
            ("bufsize", checked_capacity),
            ("concurrency", checked_concurrency),
        )
        for name, check in checks:
            try:
                check(getattr(machine, name))
            except InvalidArgument as error:
                self.problems.append(f"machine.{name}: {error.problem}")
            except InvalidName as error:
                self.problems.append(f"machine.{name}: {error}")

    def _check_function(self, entry: SlotEntry | SourceEntry, where: str) -> None:
        if (entry.source is None) == (entry.function is None):
            self.problems.append(f"{where}: exactly one of `source` (a text) and `function` (module:name) is needed")
        if entry.function is not None and not REFERENCE.fullmatch(entry.function):
            self.problems.append(f"{where}.function: {entry.function!r} is not a reference; write module:name")

    def _check_slots(self, slots: list[SlotEntry], stages: int) -> None:
        for slot in slots:
            if not 0 <= slot.slot < stages:
                self.problems.append(
                    f"slot {slot.slot}: out of range; with {counted(stages, 'stage')} there are slots 0 to {stages - 1}"
                )
            if slot.name is not None and not slot.name.isidentifier():
                self.problems.append(f"slot {slot.slot}: its name {slot.name!r} is not an identifier")
        for number in _duplicates(slot.slot for slot in slots):
            self.problems.append(f"slot {number}: defined more than once")
        for name in _duplicates(slot.name for slot in slots if slot.name is not None):
            self.problems.append(f"slot name {name!r}: used by more than one slot")

    def _check_source(self, source: SourceEntry) -> None:
        """Check the source's options as the machine does."""
        self.problems += [f"source.{found.name}: {found.problem}" for found in option_problems(source, source.total)]


T = TypeVar("T", int, str)


def _duplicates(items: Iterator[T]) -> list[T]:
    return [item for item, count in Counter(items).items() if count > 1]


def _type_text(hint: Any) -> str:
    """Return a description of a type for people."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_text(part) for part in get_args(hint) if part is not type(None))
    return _TYPE_NAMES.get(hint, str(hint))
