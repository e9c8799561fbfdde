"""Save a machine as ``timbr.toml``: a machine of this process, or a remote one by its description.

The file contains no messages, records or counts. The source is saved only if the machine was created
from a project that has one.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from timbr_wamp.contract import Policy, SlotInfo, Status
from timbr_wamp.errors import CannotSave, InvalidArgument, InvalidProject
from timbr_wamp.machine import Machine
from timbr_wamp.projects.project import entries_of
from timbr_wamp.projects.schema import REFERENCE, MachineEntry, SourceEntry, read_project, sparse
from timbr_wamp.projects.source_texts import (
    NoStandaloneSource,
    free_names,
    is_callable_class,
    reference_of,
    required_parameters,
    standalone_part,
    standalone_source,
)
from timbr_wamp.runtime import replace_file
from timbr_wamp.settings import expanded, project_file

__all__ = ["slot_source", "exported", "save", "toml", "write"]

HEAD = "# A machine of timbr-wamp. `timbr-wamp run` creates and starts it, `timbr-wamp validate` checks this file.\n"
#: Values that are omitted from the file.
_DEFAULTS: dict[str, Any] = msgspec.structs.asdict(MachineEntry())

Tables = dict[str, Any]


def save(machine: Machine, path: str | Path, *, overwrite: bool = False) -> Path:
    """Save a machine of this process as a project; return the path of its file.

    Args:
        path: a folder, for ``timbr.toml`` in it, or the file itself.
        overwrite: replace an existing file; its ``[settings]`` are kept, and its ``[source]`` unless
            the machine has one from a project.

    Raises:
        CannotSave: a slot's function can be saved neither as ``module:name`` nor as source text.
        InvalidArgument: the file exists, and ``overwrite`` is False.
    """
    entries, source = entries_of(machine)
    loaded = {slot.entry.slot: slot for slot in entries}
    slots = []
    for info in machine.slots:
        if info.identity:
            continue
        function, was = machine[info.slot], loaded.get(info.slot)
        if was is not None and was.function is function:  # unchanged since the file was loaded
            where = {"source": was.entry.source} if was.entry.source is not None else {"function": was.entry.function}
        elif (reference := reference_of(function)) is not None:
            where = {"function": reference}
        else:
            try:
                where = {"source": standalone_source(function, info.source)}
            except NoStandaloneSource as error:
                raise CannotSave(_slot(info), str(error)) from None
        slots.append(_slot_table(info, where))
    tables = _machine_tables(machine.status, len(machine), slots)
    if source is not None:
        tables["source"] = _source_table(source, machine.status)
    return write(tables, path, overwrite=overwrite)


def exported(status: Status, slots: Sequence[SlotInfo], left_out: list[CannotSave] | None = None) -> Tables:
    """Return the tables of a remote machine, from its description.

    Args:
        left_out: gets an error for each slot or policy that is left out; None raises the first one.

    Raises:
        CannotSave: a slot's description is not sufficient, or a policy has no form in TOML.
    """
    problems: list[CannotSave] = []
    tables = []
    for info in slots:
        if info.identity:
            continue
        try:
            tables.append(_slot_table(info, slot_source(info)))
        except CannotSave as error:
            problems.append(error)
            continue
        _check_policy(tables[-1], "policy", f"the policy of {_slot(info)}", problems)
    machine = _machine_tables(status, len(slots), tables)
    _check_policy(machine["machine"], "on_error", "the machine's policy", problems)
    if left_out is not None:
        left_out += problems
    elif problems:
        raise problems[0]
    return machine


def _check_policy(table: Tables, key: str, part: str, problems: list[CannotSave]) -> None:
    """Take a policy that has no form in TOML out of its table: its default value may be anything that JSON has."""
    try:
        tomli_w.dumps({key: table[key]} if key in table else {})
    except (TypeError, ValueError) as error:
        del table[key]
        problems.append(CannotSave(part, f"its default value has no form in TOML: {error}"))


def slot_source(info: SlotInfo) -> Tables:
    """Return ``source`` or ``function`` of a slot, from its description.

    Raises:
        CannotSave: its source text is not standalone, and no module contains its function.
    """
    text, function = info.source or "", info.function or ""
    if REFERENCE.fullmatch(text.strip()):
        return {"function": text.strip()}  # the slot was set by reference
    if not text and function in vars(builtins):
        return {"function": f"builtins:{function}"}
    part = standalone_part(text)
    if info.kind == "object" or (part is not None and is_callable_class(part)):
        way = 'make it a variable of a module, and write function = "module:name"'
        raise CannotSave(_slot(info), f"it is an object, of the class {function}; {way}")
    missed = set() if part is None else free_names(part)
    if part is not None and not missed:
        given = info.values + info.texts
        if given and required_parameters(part) not in (None, given):
            problem = "it takes other values than its text does, as a functools.partial or a method of an object"
            raise CannotSave(_slot(info), f"{problem}; write a function that calls it")
        return {"source": part if part.endswith("\n") else f"{part}\n"}
    module, _, name = function.rpartition(".")
    if module and "<" not in function:
        return {"function": f"{module}:{name}"}
    if missed:
        names = ", ".join(sorted(missed))
        raise CannotSave(_slot(info), f"its text uses {names} from outside of it; put what it uses into the text")
    raise CannotSave(_slot(info), "its source text is not known; set it by source text")


def toml(tables: Tables) -> str:
    """Return the tables as TOML text.

    Raises:
        CannotSave: a value cannot be expressed in TOML, such as None within a list.
    """
    try:
        return HEAD + "\n" + tomli_w.dumps(tables, multiline_strings=True)
    except (TypeError, ValueError) as error:
        raise CannotSave("a default value", f"it cannot be expressed in TOML: {error}") from None


def write(tables: Tables, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a project's file atomically; see `save`."""
    file = project_file(expanded(path))
    if file.exists() and not overwrite:
        raise InvalidArgument("path", f"{file} already exists; overwrite=True replaces its machine and slots")
    kept = _preserved_tables(file) if file.exists() else {}
    merged = {**kept, **tables}
    text = toml({key: merged[key] for key in ("machine", "source", "slots", "settings") if merged.get(key)})
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, text.encode(), mode=file.stat().st_mode & 0o777 if file.exists() else 0o644)
    return file


# --- inside ----------------------------------------------------------------------------------


def _preserved_tables(file: Path) -> Tables:
    """Return the tables that are kept when a file is replaced.

    Raises:
        InvalidArgument: the file cannot be read.
    """
    try:
        before = read_project(file)
    except InvalidProject as error:
        raise InvalidArgument("path", f"the existing file is not replaced, because it has problems: {error}") from None
    kept: Tables = {"settings": before.settings} if before.settings else {}
    if before.source is not None:
        kept["source"] = _source_table(before.source, None)
    return kept


def _slot(info: SlotInfo) -> str:
    return f"slot {info.slot}" + (f" ({info.name})" if info.name else "")


def _slot_table(info: SlotInfo, where: Tables) -> Tables:
    table: Tables = {"slot": info.slot}
    if info.name is not None:
        table["name"] = info.name
    table |= where
    if info.policy is not None:
        table["policy"] = _policy(info.policy)
    return table


def _machine_tables(status: Status, stages: int, slots: list[Tables]) -> Tables:
    machine: Tables = {
        "name": status.name,
        "stages": stages,
        "bufsize": status.queue_capacity,
        "executor": status.executor,
        "concurrency": status.concurrency,
    }
    if status.on_error != Policy():
        machine["on_error"] = _policy(status.on_error)
    kept = {key: value for key, value in machine.items() if value != _DEFAULTS.get(key)}
    return {"machine": kept, "slots": slots}


def _source_table(source: SourceEntry, status: Status | None) -> Tables:
    options = source.options if status is None or status.source.state == "none" else status.source.options
    table = {key: getattr(source, key) for key in ("source", "function", "total")}
    table |= sparse(options)
    return {key: value for key, value in table.items() if value is not None}


def _policy(policy: Policy) -> Tables | str:
    table = sparse(policy)
    if set(table) <= {"on_error"}:
        return policy.on_error
    return table
