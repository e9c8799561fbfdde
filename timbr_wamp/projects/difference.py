"""Compare a project with a live machine or with another project."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from timbr_wamp.contract import Policy, SlotInfo, SourceOptions, Status
from timbr_wamp.machine.slots.functions import function_name, source_text
from timbr_wamp.projects.project import Project
from timbr_wamp.projects.schema import REFERENCE, sparse
from timbr_wamp.projects.source_texts import reference_of, standalone_part

__all__ = ["Difference", "MachineDescription", "as_text", "differences", "describe_machine", "describe_project"]


@dataclass(frozen=True, slots=True)
class SlotDescription:
    """The properties of a slot that are compared."""

    name: str | None
    #: Source text, or the name of the function if there is none.
    text: str
    policy: Policy | None
    #: ``module:name`` if known.
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """The properties of a machine that are compared."""

    #: Name of the machine in the output.
    label: str
    settings: Mapping[str, Any]
    slots: Mapping[int, SlotDescription]


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """One difference between two machines."""

    #: ``machine`` or ``slot``.
    part: Literal["machine", "slot"]
    #: Number of the slot; None for the machine.
    slot: int | None = None
    #: ``name``, ``policy``, ``bufsize`` …; ``function`` for what a slot does.
    what: str
    change: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None
    #: Unified diff of the source texts, for ``function``.
    diff: str | None = None


def describe_project(project: Project, label: str | None = None) -> MachineDescription:
    """Return the description of a project. Loads its functions, but creates no machine.

    Raises:
        InvalidProject: something cannot be loaded; the error lists all problems.
    """
    slots = {}
    for slot in project.slots():
        entry, function = slot.entry, slot.function
        text = entry.source or source_text(function) or function_name(function)
        slots[entry.slot] = SlotDescription(
            entry.name, _plain(text), entry.policy, entry.function or reference_of(function)
        )
    about = project.content.machine
    settings = {key: value for key, value in msgspec.structs.asdict(about).items() if key != "on_error"}
    settings["on_error"] = about.on_error or Policy()
    settings["source"] = None if project.content.source is None else project.content.source.options
    return MachineDescription(label or project.path.name, settings, slots)


def describe_machine(status: Status, slots: Sequence[SlotInfo], label: str = "live") -> MachineDescription:
    """Return the description of a live machine."""
    known = {}
    for info in slots:
        if not info.identity:
            text = info.source or info.function or ""
            reference = text.strip() if REFERENCE.fullmatch(text.strip()) else None
            known[info.slot] = SlotDescription(info.name, _plain(text), info.policy, reference)
    settings = {
        "name": status.name,
        "stages": len(slots),
        "bufsize": status.queue_capacity,
        "executor": status.executor,
        "concurrency": status.concurrency,
        "on_error": status.on_error,
        "source": None if status.source.state == "none" else status.source.options,
    }
    return MachineDescription(label, settings, known)


def differences(before: MachineDescription, after: MachineDescription) -> list[Difference]:
    """Return the differences of ``after`` from ``before``: the machine's settings first, then slot by slot."""
    found = [
        Difference(
            part="machine", what=key, change=_change(old, new), before=_as_builtins(old), after=_as_builtins(new)
        )
        for key, old in before.settings.items()
        if (new := after.settings[key]) != old
    ]
    for number in sorted({*before.slots, *after.slots}):
        found += _slot_differences(number, before, after)
    return found


def as_text(found: Sequence[Difference], before: MachineDescription, after: MachineDescription) -> str:
    """Return the differences as text: lines for settings, unified diffs for source texts."""
    lines = []
    for one in found:
        if one.diff is not None:
            lines.append(one.diff.rstrip("\n"))
            continue
        where = "machine" if one.slot is None else f"slot {one.slot}"
        lines += [f"--- {before.label} {where}", f"+++ {after.label} {where}"]
        lines += [f"-{one.what} = {one.before}"] if one.change != "added" else []
        lines += [f"+{one.what} = {one.after}"] if one.change != "removed" else []
    return "\n".join(lines)


# --- inside ----------------------------------------------------------------------------------


def _slot_differences(number: int, before: MachineDescription, after: MachineDescription) -> list[Difference]:
    old, new = before.slots.get(number), after.slots.get(number)
    found = []
    if not _same_function(old, new):
        diff = "".join(
            difflib.unified_diff(
                _lines(old), _lines(new), _title(before.label, number, old), _title(after.label, number, new)
            )
        )
        found.append(
            Difference(
                part="slot",
                slot=number,
                what="function",
                change=_change(old, new),
                diff=diff,
                before=old and old.text,
                after=new and new.text,
            )
        )
    for what in ("name", "policy"):
        one, other = (None if side is None else getattr(side, what) for side in (old, new))
        if one != other:
            change = _change(one, other)
            found.append(
                Difference(
                    part="slot",
                    slot=number,
                    what=what,
                    change=change,
                    before=_as_builtins(one),
                    after=_as_builtins(other),
                )
            )
    return found


def _same_function(old: SlotDescription | None, new: SlotDescription | None) -> bool:
    if old is None or new is None:
        return old is new
    if old.reference is not None and new.reference is not None:
        return old.reference == new.reference
    return old.text == new.text


def _change(old: object, new: object) -> Literal["added", "removed", "changed"]:
    return "added" if old is None else "removed" if new is None else "changed"


def _as_builtins(value: object) -> Any:
    """Return a value as plain values; of a policy or options, the keys that differ from their defaults."""
    return sparse(value) if isinstance(value, (Policy, SourceOptions)) else value


def _lines(side: SlotDescription | None) -> list[str]:
    return [] if side is None else [f"{line}\n" for line in side.text.splitlines()]


def _title(label: str, number: int, side: SlotDescription | None) -> str:
    return "/dev/null" if side is None else f"{label} slot {number}" + (f" ({side.name})" if side.name else "")


def _plain(text: str) -> str:
    """Return a text without indentation, surrounding empty lines, trailing spaces, and a lambda's statement."""
    text = textwrap.dedent(text).strip("\n")
    return "\n".join(line.rstrip() for line in (standalone_part(text) or text).splitlines())
