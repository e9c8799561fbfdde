"""What a slot in a child process changes in its arguments, and that it returns one of them, as in one process.

A child gets copies. `containers_of` lists the containers in the arguments, on both sides in the same order, so a number
stands for one and the same container here and there. The reply says with these numbers what the value refers to
and what the containers hold now. That covers `list`, `dict`, `set` and `bytearray`, at any depth; of other
objects, those of classes and libraries, the parent gets copies.
"""

from __future__ import annotations

import io
import operator
import pickle
from collections.abc import Sequence
from typing import Any, TypeAlias

from timbr_wamp.machine.running.executors.pickling import ValuePickler

#: Containers with what they held, each in the form that `_content` gives.
Snapshot: TypeAlias = "list[tuple[Any, list[Any]]]"

_CONTAINERS = frozenset({list, dict, set, bytearray})
#: What may hold containers, and is pickled as what it is.
_WALKED = frozenset({list, dict, tuple})


def containers_of(arguments: Sequence[Any]) -> list[Any]:
    """Return the containers in the arguments, each once."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting: list[Any] = [tuple(arguments)]
    while waiting:
        one = waiting.pop()
        if type(one) in _CONTAINERS:
            found[id(one)] = one
        if type(one) not in _WALKED:
            continue
        for part in list(one.values()) if type(one) is dict else list(one):
            if (type(part) in _CONTAINERS or type(part) is tuple) and id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return list(found.values())


def snapshot_of(containers: Sequence[Any]) -> Snapshot:
    """Remember what containers hold."""
    return [(container, _content(container)) for container in containers]


def dumps_changes(value: object, before: Snapshot) -> bytes:
    """Return a value and what has changed since the snapshot, for `take_changes`. Raises anything."""
    numbers = {id(container): number for number, (container, _) in enumerate(before)}
    changed = []
    for number, (container, content) in enumerate(before):
        now = _content(container)
        if len(now) != len(content) or not all(map(operator.is_, now, content)):
            changed.append((number, now))
    with io.BytesIO() as file:
        _Pickler(file, numbers).dump((value, changed))
        return file.getvalue()


def take_changes(data: bytes, containers: Sequence[Any]) -> Any:
    """Change the parent's ``containers`` as the child's were, and return the value. Raises anything."""
    with io.BytesIO(data) as file:
        value, changed = _Unpickler(file, containers).load()
    for number, content in changed:
        container = containers[number]
        if type(container) is dict:
            container.clear()
            container.update(zip(content[::2], content[1::2], strict=True))
        elif type(container) is set:
            container.clear()
            container.update(content)
        else:
            container[:] = content
    return value


def _content(container: Any) -> list[Any]:
    """Return what a container holds; of a dict keys and values in turn."""
    if type(container) is dict:
        return [part for item in container.items() for part in item]
    return list(container)


class _Pickler(ValuePickler):
    def __init__(self, file: io.BytesIO, numbers: dict[int, int]) -> None:
        super().__init__(file, protocol=5)
        self._numbers = numbers

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, containers: Sequence[Any]) -> None:
        super().__init__(file)
        self._containers = containers

    def persistent_load(self, pid: Any) -> Any:
        return self._containers[pid]
