"""What a shell has: the client that ``%wamp`` opened, the chosen kernel and machine, the subscriptions.

`timbr_wamp.magic.verbs` uses it to carry out the verbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

import timbr_wamp
from timbr_wamp import plugins
from timbr_wamp.contract import TOPICS, IopubMessage, KernelInfo, RecordsBatch, records_from_batch
from timbr_wamp.errors import InvalidName, UnknownKernel, did_you_mean
from timbr_wamp.magic.callbacks import CallArguments, CallbackSubscription, Decode
from timbr_wamp.magic.commands import KERNEL_TOPICS, MACHINE_TOPICS
from timbr_wamp.magic.tab_list import TabList
from timbr_wamp.names import KERNEL_PREFIX, PREFIX, kernel_uri

if TYPE_CHECKING:
    from timbr_wamp.client import Client, RemoteKernel, RemoteMachine


class ShellState:
    """What one shell has. From the shell's thread; its peeks from any."""

    def __init__(self) -> None:
        #: Token from ``%wamp token``, for the next connect.
        self._kept_token: str | None = None
        #: Arguments of the last connect; None for those that it took from the settings.
        self._requested: dict[str, str | None] = {}
        self._kernel: RemoteKernel | None = None
        #: The user has selected it; else it is the only one, or this process's own, which was shared.
        self._by_user = False
        self._machine_name: str | None = None
        self.client: Client | None = None
        self.subscriptions: list[CallbackSubscription] = []
        self.kernel_names = TabList(self._fetch_kernel_names)
        self.slot_names = TabList(self._fetch_slot_names)

    # --- connection ---------------------------------------------------------------------------

    def keep_token(self, token: str) -> str:
        """Store a token for the next connect; return its name."""
        name = _token_name(token)
        self._kept_token = token
        return name

    def connect(
        self, url: str | None = None, token: str | None = None, realm: str | None = None, *, again: bool = False
    ) -> Client:
        """Return a client for the arguments: the open one if it matches, else a new one.

        Arguments that are not given are those of the last connect, unless ``url`` is another router.
        The selected kernel is kept for a new client; subscriptions end with the old client.
        """
        if token is not None:
            _token_name(token)
        asked = self._with_previous(url, token, realm)
        if self.client is not None and not again and asked == self._requested:
            return self.client
        kernel, machine_name, by_user = self._kernel, self._machine_name, self._by_user
        client = timbr_wamp.connect(asked["url"], asked["token"], realm=asked["realm"])
        self.disconnect()
        self.client, self._requested, self._kept_token = client, asked, None
        if kernel is not None and kernel.id in {info.kernel_id for info in client.kernels()}:
            self._kernel, self._machine_name, self._by_user = client.kernel(kernel.id), machine_name, by_user
        return client

    def _with_previous(self, url: str | None, token: str | None, realm: str | None) -> dict[str, str | None]:
        before: dict[str, str | None] = self._requested
        if url is not None and url != before.get("url"):
            open_url = None if self.client is None else self.client.url
            before = before if url == open_url else {}
            url = before.get("url") if url == open_url else url
        return {
            "url": url or before.get("url"),
            "token": token or self._kept_token or before.get("token"),
            "realm": realm or before.get("realm"),
        }

    def open_client(self) -> Client:
        """Return the open client; connect with the default arguments if there is none."""
        return self.client if self.client is not None else self.connect()

    def disconnect(self) -> bool:
        """End subscriptions and client; tell whether there was one. Idempotent."""
        self.unsubscribe()
        self._kernel = self._machine_name = None
        self._by_user = False
        client, self.client = self.client, None
        for tab_list in (self.kernel_names, self.slot_names):
            tab_list.forget()
        if client is None:
            return False
        client.close()
        return True

    # --- kernel and machine -------------------------------------------------------------------

    @property
    def selected(self) -> RemoteKernel | None:
        """The selected kernel; None if none is selected."""
        return self._kernel

    def select(self, kernel: str | None, machine: str | None = None) -> RemoteKernel:
        """Select a kernel by id, name or a prefix, for the user; None means the selected or the only one.

        Raises:
            UnknownKernel: no kernel matches.
            AmbiguousKernel: several kernels match.
            NoMachine: the kernel has no machine of that name.
        """
        wanted = machine
        if kernel is None:
            self._follow_share()
        if kernel is None and self._kernel is not None:
            chosen, machine = self._kernel, machine or self._machine_name
        else:
            chosen = self.find(kernel)
        if wanted is not None:
            chosen.machine(wanted)
        self._take(chosen, machine, by_user=True)
        return chosen

    def _take(self, kernel: RemoteKernel, machine: str | None = None, *, by_user: bool = False) -> None:
        self._kernel, self._machine_name, self._by_user = kernel, machine, by_user
        self.slot_names.forget()

    def _follow_share(self) -> None:
        """Select this process's own kernel once it was shared, unless the user has selected one."""
        own = None if self._by_user else _shared_id()
        if own is not None and (self._kernel is None or self._kernel.id != own):
            with suppress(UnknownKernel):  # it is on another router than the one that the user has connected to
                self._take(self.find(own))

    def find(self, kernel: str | None) -> RemoteKernel:
        """Return a kernel without selecting it."""
        name = None if kernel is None else kernel.removeprefix(KERNEL_PREFIX + ".")
        return self.open_client().kernel(name)

    def kernel(self) -> RemoteKernel:
        """Return the selected kernel; if none is, this process's own if it was shared, else the only other one."""
        self._follow_share()
        if self._kernel is None:
            self._take(self.find(None))
        assert self._kernel is not None
        return self._kernel

    def machine(self) -> RemoteMachine:
        """Return the selected machine, the only one of the kernel, or the one with the default name."""
        return self.kernel().machine(self._machine_name)

    # --- subscriptions ------------------------------------------------------------------------------

    def subscribe(self, subscription: CallbackSubscription, *, one_argument: bool = False) -> None:
        """Begin to call a subscription's function; a subscription of the same topic and callback ends first.

        ``one_argument``: a record of the topic ``machine`` is passed as one list ``[oid, [in, f0, …]]``.
        """
        uri, decode = self._topic(subscription.topic)
        if one_argument and subscription.topic == "machine":
            decode = _as_one_argument
        client = self.open_client()
        self.unsubscribe(subscription.topic, subscription.callback)
        subscription.begin(lambda on_event: client.on(uri, on_event), decode)
        self.subscriptions.append(subscription)

    def unsubscribe(self, topic: str | None = None, callback: str | None = None) -> list[CallbackSubscription]:
        """End the subscriptions that fit, all when nothing is given; return them."""
        ended = [w for w in self.subscriptions if topic in (None, w.topic) and callback in (None, w.callback)]
        self.subscriptions = [subscription for subscription in self.subscriptions if subscription not in ended]
        for subscription in ended:
            subscription.end()
        return ended

    def _topic(self, topic: str) -> tuple[str, Decode | None]:
        """Return a topic's URI, and what makes calls of an event's arguments."""
        if topic in KERNEL_TOPICS:
            kind = KernelInfo if topic == "state" else IopubMessage
            return kernel_uri(self.kernel().id, topic), _typed(kind)
        if topic in MACHINE_TOPICS:
            name = "" if topic == "machine" else topic
            parts = (self.machine().name, name) if name else (self.machine().name,)
            decode: Decode | None = _each_record if topic == "records" else None
            if topic in ("status", "event", "error"):
                decode = _typed(TOPICS["machine"][topic].payload)
            return kernel_uri(self.kernel().id, *parts), decode
        if not topic.startswith(PREFIX + "."):
            known = (*MACHINE_TOPICS, *KERNEL_TOPICS)
            raise InvalidName(topic, f"one of {', '.join(known)}, or a URI {PREFIX}.…{did_you_mean(topic, known)}")
        return topic, None

    # --- for Tab ------------------------------------------------------------------------------

    def _fetch_kernel_names(self) -> list[str]:
        client = self.client
        if client is None:
            return []
        infos = client.kernels()
        return [name for info in infos for name in (info.name, info.kernel_id)]

    def _fetch_slot_names(self) -> list[str]:
        if self.client is None or self._kernel is None:
            return []
        slots = self.machine().slots
        return [text for slot in slots for text in (str(slot.slot), slot.name or "") if text]


def _shared_id() -> str | None:
    if plugins.own_kernel() is None:
        return None  # nothing that could have been shared
    shared_id: Any = plugins.load(plugins.FACES, "shared_id")
    found: str | None = shared_id()
    return found


def _token_name(token: str) -> str:
    from timbr_wamp.client.session import split_token  # autobahn: 0.3 s that %load_ext need not wait

    return split_token(token)[0]


def _typed(kind: Any) -> Decode:
    """Return what makes one value of the contract of an event, whichever way it was published."""

    def decode(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[CallArguments]:
        return [((msgspec.convert(args[0] if args else kwargs, kind, strict=False),), {})]

    return decode


def _as_one_argument(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[CallArguments]:
    return [((list(args),), dict(kwargs))]


def _each_record(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterable[CallArguments]:
    batch = msgspec.convert(args[0] if args else kwargs, RecordsBatch, strict=False)
    return (((record,), {}) for record in records_from_batch(batch))
