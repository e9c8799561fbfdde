"""Subscriptions and registrations whose requests are cancelled, time out, or fail: nothing is left half made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from wait_kit import until

from timbr_wamp.client import subscriptions as module
from timbr_wamp.client.subscriptions import Subscriptions
from timbr_wamp.errors import CallTimeout

LIMIT_S = 10.0


class FakeSession:
    """Answers requests when the test says so; counts what the router would have."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.requests: list[tuple[str, asyncio.Future[Any], Any]] = []
        self.there: list[tuple[str, Callable[..., Any]]] = []
        self.at_once = False

    def is_attached(self) -> bool:
        return True

    def _ask(self, handler: Callable[..., Any], uri: str, options: Any) -> asyncio.Future[Any]:
        request: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.requests.append((uri, request, handler))
        if self.at_once:
            self.answer()
        return request

    subscribe = register = _ask

    def answer(self, error: Exception | None = None) -> None:
        uri, request, handler = self.requests.pop(0)
        assert not request.cancelled(), "autobahn would forget what the router then makes"
        if error is not None:
            request.set_exception(error)
            return
        made = (uri, handler)
        self.there.append(made)

        async def undo() -> None:
            self.there.remove(made)

        request.set_result(SimpleNamespace(unsubscribe=undo, unregister=undo))

    def event(self, topic: str, *args: Any) -> None:
        details = SimpleNamespace(topic=topic, retained=False, publisher=None, publisher_authid=None)
        for uri, handler in self.there:
            if uri == topic:
                handler(*args, **{module._DETAILS: details})


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


async def endpoint(args: Any, kwargs: Any, call: Any) -> None:
    """Answer nothing."""


@pytest.mark.parametrize("kind", ["subscribe", "register"])
@pytest.mark.parametrize("steps", range(8))
def test_a_request_that_is_cancelled_anywhere_is_undone_when_its_answer_comes(kind: str, steps: int):
    async def test() -> None:
        session, made = FakeSession(), Subscriptions(no_error)
        await made.restore(session)
        ask = (
            made.subscribe(session, "t", print, False) if kind == "subscribe" else made.register(session, "t", endpoint)
        )
        task = asyncio.create_task(ask)
        for step in range(steps):
            await asyncio.sleep(0)
            if step == 3:
                session.answer()
        task.cancel()
        await asyncio.wait([task])
        if session.requests:
            session.answer()
        if task.cancelled():
            await until(lambda: not session.there)
        else:
            assert len(session.there) == 1
        await made.close()

    in_loop(test)


def test_a_late_answer_serves_who_asked_again_and_each_event_comes_once(monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.0)
        session, made, seen = FakeSession(), Subscriptions(no_error), []
        await made.restore(session)
        with pytest.raises(CallTimeout):
            await made.subscribe(session, "t", lambda *args, details: seen.append("first"), False)
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", LIMIT_S)
        again = asyncio.create_task(made.subscribe(session, "t", lambda *args, details: seen.append("again"), False))
        await until(lambda: len(session.requests) == 2)
        session.answer()
        session.event("t", 1)
        session.answer()
        subscription = await again
        session.event("t", 2)
        await until(lambda: len(session.there) == 1)
        session.event("t", 3)
        assert seen == ["again", "again"]
        await subscription.unsubscribe()
        assert not session.there
        await made.close()

    in_loop(test)


def test_what_could_not_be_restored_is_tried_again_until_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RESTORE_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "RESTORE_CAP_S", 0.0)

    async def test() -> None:
        made = Subscriptions(no_error)
        registration = await made.register(None, "p", endpoint)
        await made.subscribe(None, "t", print, False)
        session = FakeSession()
        restoring = asyncio.create_task(made.restore(session))
        for _ in range(2):  # both are refused twice: an authorizer that is not there yet
            await until(lambda: len(session.requests) == 2)
            session.answer(TimeoutError("no answer"))
            session.answer(TimeoutError("no answer"))
        await restoring
        session.at_once = True
        await until(lambda: len(session.requests) + len(session.there) >= 2)
        while session.requests:
            session.answer()
        await until(lambda: registration.live is not None)
        assert sorted(uri for uri, _ in session.there) == ["p", "t"]
        await made.close()

    in_loop(test)


def no_error(error: Exception) -> None:
    raise AssertionError from error


def test_an_unexpected_error_while_restoring_is_raised_with_its_class():
    async def test() -> None:
        made = Subscriptions(no_error)
        await made.subscribe(None, "t", print, False)
        session = FakeSession()
        session.subscribe = None  # type: ignore[assignment]
        with pytest.raises(TypeError):  # the connection ends with an InternalError, see `Connection`
            await made.restore(session)
        await made.close()

    in_loop(test)
