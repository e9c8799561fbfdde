"""Which topics of each kernel have subscribers, so that its bridge publishes only those.

Sans-I/O: it gets the router's meta events and its answers, and returns what to ask next and what to tell
which kernel's bridge; `timbr_node` asks and tells. A meta event says only *which* subscription to ask the
router about: what subscribers it has is always the router's answer, because the events alone are not
enough. A retained event makes a subscription without any meta event; a subscription that such an event
keeps is not announced again by its next subscriber; after an unclean disconnection the wamp session is
missing, and ``on_delete`` may be missing or sent for the wrong subscription. Every change is followed by
an event that names its subscription, so the last answer is always right. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from timbr_access import kernel_of


@dataclass(slots=True)
class _Kernel:
    """What is known of one kernel."""

    #: Its topics by the name relative to the kernel, such as ``iopub`` or ``machine.records``.
    topics: dict[str, str]
    #: The names that its bridge was told last.
    told: list[str] = field(default_factory=list)


class Interest:
    """The subscriptions of the router, and the kernels whose bridges are told about them.

    Args:
        kernel_topics, machine_topics: the contract's topics of a kernel, and of each machine ("" is the
            topic of the machine itself).
        clock: UTC seconds. Numbers start at its microseconds, so that they also grow over restarts.
    """

    def __init__(
        self, kernel_topics: Iterable[str], machine_topics: Iterable[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._kernel_topics, self._machine_topics = tuple(kernel_topics), tuple(machine_topics)
        self._number = int(clock() * 1e6)
        self._to_ask: set[int] = set()
        #: URI and kind of match of each subscription that has subscribers.
        self._subscriptions: dict[int, tuple[str, str]] = {}
        #: The numbers of those subscriptions, by URI, and by pattern and kind of match.
        self._exact: dict[str, set[int]] = {}
        self._patterns: dict[tuple[str, str], set[int]] = {}
        self._kernels: dict[str, _Kernel] = {}
        #: Kernels whose interest may have changed since `changes`.
        self._affected: set[str] = set()

    # --- subscriptions -----------------------------------------------------------------------

    def touched(self, subscription: int) -> None:
        """Record that a meta event named a subscription."""
        self._to_ask.add(subscription)

    def to_ask(self) -> list[int]:
        """Return the subscriptions about which to ask the router now, and forget that they are to be asked about."""
        asked, self._to_ask = sorted(self._to_ask), set()
        return asked

    def answered(self, subscription: int, uri: str, match: str, subscribers: int) -> None:
        """Take the router's answer. For a subscription that does not exist, call `gone`."""
        if not subscribers:
            self.gone(subscription)
        elif subscription not in self._subscriptions:
            self._subscriptions[subscription] = (uri, match)
            self._numbers(uri, match).add(subscription)
            self._affect(uri, match)

    def gone(self, subscription: int) -> None:
        """Record that a subscription has no subscribers, or does not exist. Idempotent."""
        known = self._subscriptions.pop(subscription, None)
        if known is None:
            return
        uri, match = known
        numbers = self._numbers(uri, match)
        numbers.discard(subscription)
        if not numbers:
            self._exact.pop(uri) if match == "exact" else self._patterns.pop(known)
        self._affect(uri, match)

    def _numbers(self, uri: str, match: str) -> set[int]:
        if match == "exact":
            return self._exact.setdefault(uri, set())
        return self._patterns.setdefault((uri, match), set())

    def _affect(self, uri: str, match: str) -> None:
        if match != "exact":
            self._affected.update(self._kernels)
        elif (kernel_id := kernel_of(uri)) in self._kernels:
            self._affected.add(kernel_id)

    # --- kernels -----------------------------------------------------------------------------

    def announced(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the present interest in a kernel's topics, for the bridge that announced it."""
        kernel_id = info["kernel_id"]
        names = list(self._kernel_topics)
        for machine in _machine_names(info):
            names += [f"{machine}.{topic}" if topic else machine for topic in self._machine_topics]
        kernel = self._kernels[kernel_id] = _Kernel({name: f"io.timbr.kernel.{kernel_id}.{name}" for name in names})
        self._affected.discard(kernel_id)
        kernel.told = self._wanted(kernel)
        return self._told(kernel_id, kernel)

    def left(self, kernel_id: str) -> None:
        """Record that a kernel has no bridge. Idempotent."""
        self._kernels.pop(kernel_id, None)
        self._affected.discard(kernel_id)

    def changes(self) -> list[dict[str, Any]]:
        """Return the interest to tell the bridges whose kernels' interest changed."""
        affected, self._affected = self._affected, set()
        found = []
        for kernel_id in affected:
            kernel = self._kernels[kernel_id]
            wanted = self._wanted(kernel)
            if wanted != kernel.told:
                kernel.told = wanted
                found.append(self._told(kernel_id, kernel))
        return found

    def _wanted(self, kernel: _Kernel) -> list[str]:
        return [name for name, topic in kernel.topics.items() if self._has_subscribers(topic)]

    def _has_subscribers(self, topic: str) -> bool:
        return topic in self._exact or any(matches(topic, uri, match) for uri, match in self._patterns)

    def _told(self, kernel_id: str, kernel: _Kernel) -> dict[str, Any]:
        self._number += 1
        return {"kernel_id": kernel_id, "number": self._number, "topics": kernel.told}


def _machine_names(info: dict[str, Any]) -> list[str]:
    """Return the names of a kernel's machines, once each. What is not a list of machines has none."""
    machines = info.get("machines")
    if not isinstance(machines, list):
        return []
    names = [machine.get("name") for machine in machines if isinstance(machine, dict)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def matches(topic: str, uri: str, match: str) -> bool:
    """Return whether a subscription to ``uri`` gets the events of ``topic``."""
    if match == "prefix":
        return topic.startswith(uri)
    if match == "wildcard":
        mine, theirs = topic.split("."), uri.split(".")
        return len(mine) == len(theirs) and all(part in ("", own) for part, own in zip(theirs, mine, strict=True))
    return topic == uri
