"""The node component: authenticator, authorizer, presence, list and discovery, inside the router.

The only place where Twisted speaks. It decides nothing itself: `timbr_access` knows the rules,
`timbr_presence` the kernels; here their answers become WAMP. Nobody joins before it is ready.
Everything runs in the router worker's reactor thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autobahn.twisted.util import sleep
from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallDetails, PublishOptions, RegisterOptions
from timbr_access import AUTHID, ROLES, Access, Tokens, kernel_of
from timbr_presence import Info, Presence, Refused
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.web import server

AUTHORIZE = "io.timbr.node.authorize"
ANNOUNCE = "io.timbr.node.announce"
LIST = "io.timbr.kernel.list"
DISCOVERY = "io.timbr.kernel.discovery"
REVOKED = "io.timbr.error.token_revoked"

#: How often the tokens file is looked at.
WATCH_INTERVAL_S = 0.25
#: A wamp session that does not leave when told to loses its subscriptions and registrations.
REVOKED_GRACE_S = 2.0
#: How long a client that comes before the component is ready waits for it.
READY_LIMIT_S = 15.0

server.version = b"timbr"  # the static pages' Server header otherwise names Twisted and its version


class _Desk:
    """Where the authenticators, which the transports make, find the component of this worker."""

    def __init__(self) -> None:
        self._component: NodeComponent | None = None
        self._waiting: list[Deferred[NodeComponent]] = []

    def open(self, component: NodeComponent) -> None:
        self._component = component
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:
                deferred.callback(component)

    async def component(self) -> NodeComponent:
        if self._component is None:
            from twisted.internet import reactor  # not at import: Crossbar chooses the reactor

            ready: Deferred[NodeComponent] = Deferred()
            self._waiting.append(ready)
            return await ready.addTimeout(READY_LIMIT_S, reactor)
        return self._component


_desk = _Desk()


def create_authenticator(config: dict[str, Any], controller: object) -> Callable[..., Deferred[Any]]:
    """Return the function that Crossbar asks about each ticket (``"type": "function"``)."""
    realm = config["realm"]

    async def authenticate(asked_realm: str | None, authid: str | None, details: dict[str, Any]) -> dict[str, Any]:
        if asked_realm != realm:
            raise ApplicationError("wamp.error.no_such_realm", "there is no such realm here")
        component = await _desk.component()
        role = await component.role_of(authid, details.get("ticket"))
        if role is None:
            raise ApplicationError("wamp.error.not_authorized", "this token is not known here")
        return {"realm": realm, "role": role, "authid": authid}

    def authenticator(asked_realm: str | None, authid: str | None, details: dict[str, Any]) -> Deferred[Any]:
        return ensureDeferred(authenticate(asked_realm, authid, details))

    return authenticator


class NodeComponent(ApplicationSession):
    """The node's own wamp session, of role ``trusted``."""

    async def onJoin(self, details: object) -> None:
        """Register what the node answers, then open the door."""
        folder = Path(self.config.extra["folder"])
        self._tokens = Tokens(folder / "tokens.json")
        self._access = Access(json.loads((folder / "access.json").read_text(encoding="utf-8")))
        self._presence = Presence()
        #: Names of the tokens of the wamp sessions that are here.
        self._sessions: dict[int, str] = {}
        #: Those of them that were told to leave since their token was revoked.
        self._revoked: set[int] = set()
        with_caller = RegisterOptions(details_arg="details")
        await self.subscribe(self._session_joined, "wamp.session.on_join")
        await self.subscribe(self._session_left, "wamp.session.on_leave")
        await self.register(self._authorize, AUTHORIZE)
        await self.register(self._announce, ANNOUNCE, options=with_caller)
        await self.register(self._presence.kernels, LIST)
        self._watch = LoopingCall(lambda: ensureDeferred(self._watch_tokens()))
        self._watch.start(WATCH_INTERVAL_S).addErrback(self._watch_failed)
        _desk.open(self)

    # --- tokens ------------------------------------------------------------------------------

    async def role_of(self, authid: str | None, ticket: object) -> str | None:
        """Return the role that a name and its secret give, from the tokens file as it is now."""
        await self._watch_tokens()
        if authid is None or not AUTHID.fullmatch(authid):
            return None
        return self._tokens.role_of(authid, ticket)

    async def _watch_tokens(self) -> None:
        try:
            revoked = self._tokens.refresh()
        except (OSError, ValueError) as error:
            self.log.warn("tokens file not read, the former tokens stay in force: {error}", error=error)
            return
        for session, name in list(self._sessions.items()):
            if name in revoked:
                await self._end(session, name)

    async def _end(self, session: int, name: str) -> None:
        """Tell a wamp session to leave since its token was revoked; from now on it may do nothing."""
        self._revoked.add(session)
        message = f"token {name!r} was revoked"
        try:
            await self.call("wamp.session.kill", session, reason=REVOKED, message=message)
        except ApplicationError as error:
            self.log.debug("wamp session {session} leaves already: {error}", session=session, error=error)
        ensureDeferred(self._insist(session)).addErrback(self._failed)

    async def _insist(self, session: int) -> None:
        """Leave nothing to a wamp session that stays although its token was revoked."""
        await sleep(REVOKED_GRACE_S)
        if session not in self._revoked:
            return
        self.log.warn("wamp session {session} stayed after its token was revoked", session=session)
        for kind, remove in (("subscription", "remove_subscriber"), ("registration", "remove_callee")):
            held = await self.call(f"wamp.{kind}.list", session)
            for number in (number for numbers in held.values() for number in numbers):
                await self.call(f"wamp.{kind}.{remove}", number, session, reason=REVOKED)

    def _watch_failed(self, failure: Any) -> None:
        """End the router rather than go on with tokens that nobody watches."""
        self._failed(failure)
        from twisted.internet import reactor

        reactor.stop()

    def _failed(self, failure: Any) -> None:
        self.log.failure("the node component failed", failure=failure)

    # --- authorization -----------------------------------------------------------------------

    def _authorize(self, session: Info, uri: str, action: str, options: Info) -> dict[str, bool]:
        """Answer Crossbar's question; never cached, since its cache does not know authids."""
        allowed = self._allows(session, uri, action, options.get("match") or "exact")
        return {"allow": allowed, "disclose": True, "cache": False}

    def _allows(self, session: Info, uri: str, action: str, match: str) -> bool:
        number, authid, role = session["session"], session["authid"], session["authrole"]
        if number in self._revoked or not self._access.allows(role, authid, action, uri, match):
            return False
        if action in ("register", "publish"):
            kernel_id = kernel_of(uri)
            return kernel_id is None or self._presence.claim(kernel_id, number)
        return True

    # --- presence ----------------------------------------------------------------------------

    async def _session_joined(self, info: Info) -> None:
        session, authid, role = info["session"], info["authid"], info["authrole"]
        if role not in ROLES:
            return  # the router's own
        self._sessions[session] = authid
        self._presence.joined(session)
        if self._tokens.role(authid) != role:
            await self._end(session, authid)  # revoked between its authentication and now

    def _session_left(self, session: int, *_: object) -> None:
        self._sessions.pop(session, None)
        self._revoked.discard(session)
        for info in self._presence.left(session):
            topic = f"io.timbr.kernel.{info['kernel_id']}.state"
            self.publish(topic, info, options=PublishOptions(retain=True))
            self._tell("went", info)

    def _announce(self, kernel: object, details: CallDetails) -> None:
        try:
            kind, info = self._presence.announce(details.caller_authid, details.caller, kernel)
        except Refused as refused:
            raise ApplicationError(refused.uri, *refused.args) from None
        self._tell(kind, info)

    def _tell(self, kind: str, info: Info) -> None:
        self.publish(DISCOVERY, {"kind": kind, "kernel": info})
