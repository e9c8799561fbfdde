"""The node component: authenticator, authorizer, presence, interest, list of kernels and discovery, in the router.

It connects `timbr_access` (access rules), `timbr_presence` (kernels) and `timbr_interest` (subscriptions) to
WAMP. Crossbar.io starts it before the transports, so these are made as `timbr_admission`, `timbr_transports`
and `timbr_page` say, and clients cannot join before it is ready. `timbr_delivery` answers for receivers that
a message cannot reach. Everything runs in the reactor thread of the router's worker.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timbr_admission
import timbr_delivery
import timbr_page
import timbr_retained
import timbr_transports
from autobahn.twisted.util import sleep
from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallDetails, PublishOptions, RegisterOptions
from timbr_access import AUTHID, ROLES, Access, Tokens, is_hosts, kernel_of
from timbr_interest import Interest
from timbr_log import LOG_FILE, keep_small
from timbr_presence import Info, Presence, Refused
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall

AUTHORIZE = "io.timbr.node.authorize"
ANNOUNCE = "io.timbr.node.announce"
LIST = "io.timbr.kernel.list"
DISCOVERY = "io.timbr.kernel.discovery"
INVALID_ARGUMENT = "io.timbr.error.invalid_argument"
INTEREST = "io.timbr.node.interest"
REVOKED = "io.timbr.error.token_revoked"

#: Interval for checking the tokens file.
WATCH_INTERVAL_S = 0.25
#: Interval for checking the size of the router's log.
LOG_INTERVAL_S = 5.0
#: Timeout for clients that connect before the component is ready.
READY_LIMIT_S = 15.0

timbr_admission.install()
timbr_delivery.install()
timbr_transports.install()


class _ComponentRegistry:
    """The component of this worker, for the authenticators, which the transports create."""

    def __init__(self) -> None:
        self._component: NodeComponent | None = None
        self._waiting: list[Deferred[NodeComponent]] = []

    def set(self, component: NodeComponent) -> None:
        self._component = component
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:
                deferred.callback(component)

    async def component(self) -> NodeComponent:
        if self._component is None:
            from twisted.internet import reactor  # not at module level, because Crossbar chooses the reactor

            ready: Deferred[NodeComponent] = Deferred()
            self._waiting.append(ready)
            return await ready.addTimeout(READY_LIMIT_S, reactor)
        return self._component


_registry = _ComponentRegistry()


def create_authenticator(config: dict[str, Any], controller: object) -> Callable[..., Deferred[Any]]:
    """Return the function that Crossbar calls to authenticate a ticket (``"type": "function"``)."""
    realm = config["realm"]

    async def authenticate(asked_realm: str | None, authid: str | None, details: dict[str, Any]) -> dict[str, Any]:
        if asked_realm != realm:
            raise ApplicationError("wamp.error.no_such_realm", f"realms: {realm}")
        component = await _registry.component()
        role = await component.role_of(authid, details.get("ticket"))
        if role is None:
            raise ApplicationError("wamp.error.not_authorized", "unknown token")
        return {"realm": realm, "role": role, "authid": authid}

    def authenticator(asked_realm: str | None, authid: str | None, details: dict[str, Any]) -> Deferred[Any]:
        return ensureDeferred(authenticate(asked_realm, authid, details))

    return authenticator


def _strictly(procedure: Callable[..., Any]) -> Callable[..., Any]:
    """Return the procedure so that wrong arguments raise our error instead of Python's."""
    signature = inspect.signature(procedure)

    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            text = str(error)
            raise ApplicationError(INVALID_ARGUMENT, "arguments", text, message=f"arguments: {text}") from None
        return procedure(*args, **kwargs)

    return answer


class NodeComponent(ApplicationSession):
    """The node's wamp session, with the role ``trusted``."""

    async def onJoin(self, details: object) -> None:
        """Register the node's procedures, then let clients join."""
        folder = Path(self.config.extra["folder"])
        timbr_page.install(self.config.extra["names"])
        self._tokens = Tokens(folder / "tokens.json")
        table = json.loads((folder / "access.json").read_text(encoding="utf-8"))
        self._access = Access(table)
        timbr_transports.GuardedSession.may_be_missing = staticmethod(self._access.may_be_missing)
        self._presence = Presence(table["announced"])
        self._interest = Interest(table["kernel"]["topics"], table["machine"]["topics"])
        self._asking = False
        #: What the log says of the tokens file.
        self._told_problem: str | None = None
        #: Name of the token of each wamp session.
        self._sessions: dict[int, str] = {}
        with_caller = RegisterOptions(details_arg="details")
        await self.subscribe(self._session_joined, "wamp.session.on_join")
        await self.subscribe(self._session_left, "wamp.session.on_leave")
        for name in ("on_create", "on_subscribe", "on_unsubscribe", "on_delete"):
            await self.subscribe(self._subscription_changed, f"wamp.subscription.{name}")
        await self.register(self._authorize, AUTHORIZE)
        await self.register(_strictly(self._announce), ANNOUNCE, options=with_caller)
        await self.register(_strictly(self._presence.kernels), LIST)
        self._watch = LoopingCall(lambda: ensureDeferred(self._watch_tokens()))
        self._watch.start(WATCH_INTERVAL_S).addErrback(self._watch_failed)
        self._log_watch = LoopingCall(keep_small, folder / LOG_FILE)
        self._log_watch.start(LOG_INTERVAL_S).addErrback(self._failed)
        _registry.set(self)

    # --- tokens ------------------------------------------------------------------------------

    async def role_of(self, authid: str | None, ticket: object) -> str | None:
        """Return the role for a name and secret, from the current tokens file."""
        await self._watch_tokens()
        if authid is None or not AUTHID.fullmatch(authid):
            return None
        return self._tokens.role_of(authid, ticket)

    async def _watch_tokens(self) -> None:
        revoked = self._tokens.refresh()
        problem = self._tokens.problem and f"{self._tokens.problem}; the previous tokens stay valid"
        for session, name in list(self._sessions.items()):
            if name in revoked:
                self._end(session, name)
        try:
            self._tokens.confirm()  # nothing comes out of or into their sessions any more
        except OSError as error:
            problem = problem or f"changes of tokens cannot be confirmed: {error}"
        if problem != self._told_problem:
            self._told_problem = problem
            if problem is not None:
                self.log.error("{problem}", problem=problem)

    def _end(self, session: int, name: str) -> None:
        """End a wamp session whose token was revoked, and its transport: it is asked to leave, and not waited for."""
        expelled = timbr_transports.sessions.get(session)
        if expelled is not None:
            expelled.expel(REVOKED, f"token {name!r} was revoked")

    def _watch_failed(self, failure: Any) -> None:
        """End the router, because without the watch revoked tokens would stay valid."""
        self._failed(failure)
        from twisted.internet import reactor

        reactor.stop()

    def _failed(self, failure: Any) -> None:
        self.log.failure("the node component failed", failure=failure)

    # --- authorization -----------------------------------------------------------------------

    def _authorize(self, session: Info, uri: str, action: str, options: Info) -> dict[str, bool]:
        """Authorize an action for Crossbar. Never cached, because Crossbar's cache ignores authids.

        ``forward_for`` names another wamp session as the one that speaks. Only links between routers may use
        it, and there are none here.
        """
        allowed = "forward_for" not in options and self._allows(session, uri, action, options.get("match") or "exact")
        return {"allow": allowed, "disclose": True, "cache": False}

    def _allows(self, session: Info, uri: str, action: str, match: str) -> bool:
        number, authid, role = session["session"], session["authid"], session["authrole"]
        if not self._access.allows(role, authid, action, uri, match):
            return False
        if action not in ("register", "publish"):
            return True
        if is_hosts(uri):  # a second host with the same token is refused, until the first one has left
            return self._presence.claim_host(authid, number)
        kernel_id = kernel_of(uri)
        return kernel_id is None or self._presence.claim(kernel_id, number)

    # --- presence ----------------------------------------------------------------------------

    async def _session_joined(self, info: Info) -> None:
        session, authid, role = info["session"], info["authid"], info["authrole"]
        if role not in ROLES:
            return  # the node component itself
        self._sessions[session] = authid
        self._presence.joined(session)
        if self._tokens.role(authid) != role:
            self._end(session, authid)  # the token was revoked after the authentication

    def _session_left(self, session: int, *_: object) -> None:
        self._sessions.pop(session, None)
        for info in self._presence.left(session):
            self._interest.left(info["kernel_id"])
            topic = f"io.timbr.kernel.{info['kernel_id']}.state"
            self.publish(topic, info, options=PublishOptions(retain=True))
            self._publish_discovery("went", info)
        from twisted.internet import reactor

        for kernel_id in self._presence.gone():
            reactor.callLater(timbr_retained.RELEASE_AFTER_S, self._release, kernel_id)

    def _release(self, kernel_id: str) -> None:
        """Release the retained events of a kernel, unless it is here again."""
        if self._presence.session_of(kernel_id) is None:
            timbr_retained.release(self, kernel_id)

    def _announce(self, kernel: object, details: CallDetails) -> Info:
        try:
            kind, info = self._presence.announce(details.caller_authid, details.caller, kernel)
        except Refused as refused:
            raise ApplicationError(refused.uri, *refused.args) from None
        self._publish_discovery(kind, info)
        return self._interest.announced(info)

    def _publish_discovery(self, kind: str, info: Info) -> None:
        self.publish(DISCOVERY, {"kind": kind, "kernel": info})

    # --- interest ----------------------------------------------------------------------------

    def _subscription_changed(self, _: object, subscription: int | Info) -> None:
        """Handle a meta event; the first argument, the wamp session, is None after an unclean disconnection."""
        self._interest.touched(subscription["id"] if isinstance(subscription, dict) else subscription)
        if not self._asking:
            self._asking = True
            ensureDeferred(self._ask_about_subscriptions()).addErrback(self._failed)

    async def _ask_about_subscriptions(self) -> None:
        """Ask the router about the subscriptions that changed, and tell the bridges what changed for them."""
        try:
            await sleep(0)  # several events about one subscription come together and need one question
            while asked := self._interest.to_ask():
                for subscription in asked:
                    await self._ask_about(subscription)
                for interest in self._interest.changes():
                    session = self._presence.session_of(interest["kernel_id"])
                    self.publish(INTEREST, interest, options=PublishOptions(eligible=[session]))
        finally:
            self._asking = False

    async def _ask_about(self, subscription: int) -> None:
        try:
            found = await self.call("wamp.subscription.get", subscription)
            subscribers = await self.call("wamp.subscription.count_subscribers", subscription)
        except ApplicationError as error:
            if error.error != ApplicationError.NO_SUCH_SUBSCRIPTION:
                raise
            self._interest.gone(subscription)
        else:
            self._interest.answered(subscription, found["uri"], found["match"], subscribers)
