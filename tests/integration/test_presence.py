"""Who is on the router: announcements, the list, discovery, and what is left when a bridge goes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions
from plain_wamp import PlainSession, in_loop, kernel_info, session
from wait_kit import until

from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore

pytestmark = pytest.mark.integration

DISCOVERY = "io.timbr.kernel.discovery"
RETAINED = PublishOptions(acknowledge=True, retain=True)

_numbers = itertools.count()


@dataclass
class Lab:
    """A host's token and a kernel id of its own."""

    router: Router
    name: str
    token: str = field(repr=False)
    kernel_id: str

    @property
    def state_topic(self) -> str:
        return f"io.timbr.kernel.{self.kernel_id}.state"

    def bridge(self) -> Any:
        return session(self.router.url, self.token)

    async def announce(self, bridge: PlainSession, **changes: Any) -> None:
        await bridge.call("io.timbr.node.announce", {**kernel_info(self.kernel_id), **changes})

    async def publish_state(self, bridge: PlainSession, **changes: Any) -> None:
        await bridge.publish(self.state_topic, {**kernel_info(self.kernel_id), **changes}, options=RETAINED)

    async def listed(self, asker: PlainSession) -> dict[str, Any] | None:
        kernels = await asker.call("io.timbr.kernel.list")
        return next((each for each in kernels if each["kernel_id"] == self.kernel_id), None)

    async def retained(self) -> Any:
        """Return the state that a newcomer gets."""
        async with session(self.router.url, self.router.admin_token) as newcomer:
            await newcomer.listen(self.state_topic, get_retained=True)
            return await newcomer.event()


@pytest.fixture
def lab(router: Router) -> Iterator[Lab]:
    name = f"presence_{next(_numbers)}"
    store = TokenStore(router.node_dir)
    yield Lab(router, name, store.create(name, "host"), new_kernel_id(name))
    store.revoke(name)


@pytest.fixture
def watching(lab: Lab) -> Callable[[], Any]:
    """Give an administrator's session that hears the discovery of this test's kernel."""

    @asynccontextmanager
    async def watch() -> AsyncIterator[Timers]:
        async with session(lab.router.url, lab.router.admin_token) as person:
            await person.listen(DISCOVERY)
            yield Timers(lab, person)

    return watch


@dataclass
class Timers:
    """Somebody who watches the discovery topic."""

    lab: Lab
    session: PlainSession

    async def next(self) -> tuple[str, dict[str, Any]]:
        while True:
            event = await self.session.event()
            if event["kernel"]["kernel_id"] == self.lab.kernel_id:
                return event["kind"], event["kernel"]


@in_loop
async def test_a_kernel_is_announced_changed_and_removed(lab: Lab, watching: Callable[[], Any]) -> None:
    async with watching() as watcher:
        async with lab.bridge() as bridge:
            await lab.announce(bridge)
            kind, kernel = await watcher.next()
            assert (kind, kernel["state"], kernel["wamp_session"]) == ("came", "idle", bridge._session_id)
            await lab.announce(bridge, state="busy")
            kind, kernel = await watcher.next()
            assert (kind, kernel["state"]) == ("changed", "busy")
            assert (await lab.listed(watcher.session))["state"] == "busy"
        kind, kernel = await watcher.next()
        assert (kind, kernel["state"], kernel["reason"]) == ("went", "offline", "its bridge disconnected")
        assert (await lab.listed(watcher.session))["state"] == "offline"


@pytest.mark.parametrize("how", ["goodbye", "cut"])
@in_loop
async def test_the_offline_state_is_retained_when_a_bridge_goes(
    lab: Lab, watching: Callable[[], Any], how: str
) -> None:
    async with watching() as watcher:
        async with lab.bridge() as bridge:
            await lab.publish_state(bridge)
            await lab.announce(bridge)
            assert (await watcher.next())[0] == "came"
            number = bridge._session_id
            if how == "cut":
                bridge.cut()
                await bridge.left
        assert (await watcher.next())[0] == "went"
    state = await lab.retained()
    assert (state["state"], state["wamp_session"]) == ("offline", number)


@in_loop
async def test_a_kernel_comes_back_with_its_new_bridge(lab: Lab, watching: Callable[[], Any]) -> None:
    async with watching() as watcher:
        for _ in range(2):
            async with lab.bridge() as bridge:
                await lab.announce(bridge)
                assert (await watcher.next())[0] == "came"
            assert (await watcher.next())[0] == "went"


@in_loop
async def test_an_older_session_never_overrides_a_newer_one(lab: Lab, watching: Callable[[], Any]) -> None:
    async with watching() as watcher:
        async with lab.bridge() as older, lab.bridge() as newer:
            await lab.announce(older, name="older")
            await lab.announce(newer, name="newer")
            await lab.publish_state(newer, name="newer")
            assert [(await watcher.next())[0] for _ in range(2)] == ["came", "changed"]
            with pytest.raises(ApplicationError) as caught:
                await lab.announce(older, name="older again")
            assert caught.value.error == "io.timbr.error.not_authorized"
            with pytest.raises(ApplicationError):
                await lab.publish_state(older, name="older again")
            with pytest.raises(ApplicationError):
                await older.register(lambda: 1, f"io.timbr.kernel.{lab.kernel_id}.ping")
            older.cut()
            await older.left
            await lab.announce(newer, name="newest")
            kind, kernel = await watcher.next()
            assert (kind, kernel["name"]) == ("changed", "newest")  # and no "went" for the older one
            assert (await lab.retained())["name"] == "newer"
        assert (await watcher.next())[0] == "went"


@in_loop
async def test_a_newer_session_that_only_published_keeps_its_state(lab: Lab, watching: Callable[[], Any]) -> None:
    async with watching() as watcher, lab.bridge() as older:
        await lab.announce(older)
        assert (await watcher.next())[0] == "came"
        async with lab.bridge() as newer:
            await lab.publish_state(newer, name="newer")
            older.cut()
            await older.left
            await lab.announce(newer, name="newer")
            assert (await watcher.next())[0] == "changed"
            assert (await lab.retained())["state"] == "idle"
        assert (await watcher.next())[0] == "went"


@in_loop
async def test_a_dead_kernel_leaves_the_list_with_its_bridge(lab: Lab, watching: Callable[[], Any]) -> None:
    async with watching() as watcher:
        async with lab.bridge() as bridge:
            await lab.announce(bridge)
            await lab.announce(bridge, state="dead", reason="killed by signal 9")
            assert (await lab.listed(watcher.session))["state"] == "dead"
            assert [(await watcher.next())[0] for _ in range(2)] == ["came", "changed"]
        kind, kernel = await watcher.next()
        assert (kind, kernel["state"], kernel["reason"]) == ("went", "offline", "killed by signal 9")
        assert await lab.listed(watcher.session) is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"host": "somebody"}, "invalid_argument"),
        ({"state": "flying"}, "invalid_argument"),
        ({"name": 7}, "invalid_argument"),
        ({"name": "[/nope]"}, "invalid_argument"),
        ({"name": "\x1b]0;title\x07"}, "invalid_argument"),
        ({"name": "x" * 65}, "invalid_argument"),
        ({"machines": [{"name": "m[/]"}]}, "invalid_argument"),
        ({"machines": "many"}, "invalid_argument"),
        ({"kernel_id": "x"}, "not_authorized"),
        ({"cwd": "x" * 20_000}, "payload_too_large"),
        ({"cwd": 5}, "invalid_argument"),
        ({"pid": "one"}, "invalid_argument"),
        ({"restarts": None}, "invalid_argument"),
        ({"started_at": True}, "invalid_argument"),
        ({"pid": 2**64}, "invalid_argument"),
        ({"later": {"deep": [2**70]}}, "invalid_argument"),
        ({"machines": [{"name": "m", "run": "r"}]}, "invalid_argument"),
        ({"machines": [{"name": "m", "run": "r", "state": "flying"}]}, "invalid_argument"),
        ({"machines": [{"name": "m", "run": 5, "state": "idle"}]}, "invalid_argument"),
    ],
)
@in_loop
async def test_an_invalid_announcement_is_refused(lab: Lab, changes: dict[str, Any], error: str) -> None:
    async with lab.bridge() as bridge:
        with pytest.raises(ApplicationError) as caught:
            await lab.announce(bridge, **changes)
        assert caught.value.error == f"io.timbr.error.{error}"


@in_loop
async def test_many_announcements_at_once_are_all_kept(lab: Lab) -> None:
    async with lab.bridge() as bridge, session(lab.router.url, lab.router.admin_token) as person:
        ids = {new_kernel_id(lab.name) for _ in range(50)}
        await asyncio.gather(*(bridge.call("io.timbr.node.announce", kernel_info(each)) for each in ids))
        assert ids <= {kernel["kernel_id"] for kernel in await person.call("io.timbr.kernel.list")}


# --- hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["goodbye", "cut"])
@in_loop
async def test_a_second_host_with_the_same_token_is_refused_until_the_first_has_left(lab: Lab, how: str) -> None:
    start = f"io.timbr.host.{lab.name}.start"
    replacing = RegisterOptions(force_reregister=True)
    async with lab.bridge() as second, session(lab.router.url, lab.router.admin_token) as person:
        async with lab.bridge() as first:
            await first.register(lambda: "the first", start, options=replacing)
            with pytest.raises(ApplicationError) as caught:
                await second.register(lambda: "the second", start, options=replacing)
            assert caught.value.error == "wamp.error.not_authorized"
            assert await person.call(start) == "the first"
            if how == "cut":
                first.cut()
                await first.left
        # the router notices a moment later that the first one is gone
        registering = lambda: second.register(lambda: "the second", start, options=replacing)  # noqa: E731
        await until(registering, "the name is free", not_yet=(ApplicationError,))
        assert await person.call(start) == "the second"


@in_loop
async def test_retained_events_of_a_kernel_that_is_gone_are_released(lab: Lab) -> None:
    status = f"io.timbr.kernel.{lab.kernel_id}.machine.status"
    async with session(lab.router.url, lab.router.admin_token) as reader:
        async with lab.bridge() as bridge:
            await lab.announce(bridge, state="dead", reason="it ended in order")
            await lab.publish_state(bridge, state="dead", reason="it ended in order")
            await bridge.publish(status, {"state": "stopped"}, options=RETAINED)
            assert await kept(reader, status, lab.state_topic) == [True, True]
        assert (await lab.retained())["reason"] == "it ended in order"  # for a while it can still be asked for

        async def released() -> bool:
            return await kept(reader, status, lab.state_topic) == [False, False]

        assert await until(released, "both are released")


async def kept(asker: PlainSession, *topics: str) -> list[bool]:
    """Return which topics the router keeps something for."""
    return [await asker.call("wamp.subscription.lookup", topic) is not None for topic in topics]
