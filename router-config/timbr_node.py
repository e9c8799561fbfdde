"""The node component: authenticator, authorizer, presence, list of kernels and discovery, inside the router.

It connects `timbr_access` (access rules) and `timbr_presence` (kernels) to WAMP. Crossbar.io starts it
before the transports, so these are made as `timbr_admission`, `timbr_transports` and `timbr_page` say, and
clients cannot join before it is ready. `timbr_delivery` answers for receivers that a message cannot reach.
Everything runs in the reactor thread of the router's worker.
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
import timbr_transports
from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallDetails, PublishOptions, RegisterOptions
from timbr_access import AUTHID, ROLES, Access, Tokens, kernel_of
from timbr_log import LOG_FILE, keep_small
from timbr_presence import Info, Presence, Refused
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall

AUTHORIZE = "io.timbr.node.authorize"
ANNOUNCE = "io.timbr.node.announce"
LIST = "io.timbr.kernel.list"
DISCOVERY = "io.timbr.kernel.discovery"
INVALID_ARGUMENT = "io.timbr.error.invalid_argument"
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
            raise ApplicationError("wamp.error.no_such_realm", "unknown realm")
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
        self._access = Access(json.loads((folder / "access.json").read_text(encoding="utf-8")))
        self._presence = Presence()
        #: Name of the token of each wamp session.
        self._sessions: dict[int, str] = {}
        with_caller = RegisterOptions(details_arg="details")
        await self.subscribe(self._session_joined, "wamp.session.on_join")
        await self.subscribe(self._session_left, "wamp.session.on_leave")
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
        try:
            revoked = self._tokens.refresh()
        except (OSError, ValueError) as error:
            self.log.warn("the tokens file could not be read, the previous tokens stay valid: {error}", error=error)
            return
        for session, name in list(self._sessions.items()):
            if name in revoked:
                self._end(session, name)

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
        """Authorize an action for Crossbar. Never cached, because Crossbar's cache ignores authids."""
        allowed = self._allows(session, uri, action, options.get("match") or "exact")
        return {"allow": allowed, "disclose": True, "cache": False}

    def _allows(self, session: Info, uri: str, action: str, match: str) -> bool:
        number, authid, role = session["session"], session["authid"], session["authrole"]
        if not self._access.allows(role, authid, action, uri, match):
            return False
        if action in ("register", "publish"):
            kernel_id = kernel_of(uri)
            return kernel_id is None or self._presence.claim(kernel_id, number)
        return True

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
            topic = f"io.timbr.kernel.{info['kernel_id']}.state"
            self.publish(topic, info, options=PublishOptions(retain=True))
            self._publish_discovery("went", info)

    def _announce(self, kernel: object, details: CallDetails) -> None:
        try:
            kind, info = self._presence.announce(details.caller_authid, details.caller, kernel)
        except Refused as refused:
            raise ApplicationError(refused.uri, *refused.args) from None
        self._publish_discovery(kind, info)

    def _publish_discovery(self, kind: str, info: Info) -> None:
        self.publish(DISCOVERY, {"kind": kind, "kernel": info})
