"""Every procedure and topic of the contract, tried by every role in every form, against the real router.

What is tried comes from the contract's table, so that a new name is tried by itself. What is expected is
stated here once more, apart from the code that decides.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions
from plain_wamp import PlainSession, Refused, in_loop, session

from timbr_wamp.contract.api import PROCEDURES, TOPICS
from timbr_wamp.contract.exports import uri_text
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore

pytestmark = pytest.mark.integration

#: Errors of what is refused; the router itself refuses names of its own as invalid.
REFUSED = {"wamp.error.not_authorized", "io.timbr.error.not_authorized", "wamp.error.invalid_uri"}
Match = Literal["exact", "prefix", "wildcard"]
#: What a role that is no host may call and follow, by access class.
CLASSES = {
    "viewer": {"read"},
    "operator": {"read", "operate"},
    "admin": {"read", "operate", "admin"},
}
#: Attempts at once.
AT_ONCE = 50


@dataclass
class Name:
    """A URI that is tried. A procedure and a topic may have the same one."""

    uri: str
    #: Name of the host that owns it; empty for the node's.
    owner: str = ""
    #: Access class of the procedure and of the topic; empty for what the contract does not have.
    procedure: str = ""
    topic: str = ""

    def form(self, match: Match) -> str:
        """Return the URI, or a pattern that covers it."""
        if match == "exact":
            return self.uri
        parts = self.uri.split(".")
        if match == "prefix":
            return ".".join(parts[:-1]) + "."
        return ".".join([*parts[:3], "", *parts[4:]] if len(parts) > 4 else [*parts[:2], "", *parts[3:]])


def names_of(owner: str) -> list[Name]:
    """Every name of the contract for one host, and some that are near them."""
    kernel_id = new_kernel_id(owner)
    near = (
        f"io.timbr.kernel.{kernel_id}",
        f"io.timbr.kernel.{kernel_id}.machine.no_such",
        f"io.timbr.host.{owner}.no_such",
    )
    names = {uri: Name(uri, owner) for uri in near}
    for kind, table in (("procedure", PROCEDURES), ("topic", TOPICS)):
        for scope, entries in table.items():
            for entry_name, entry in entries.items():
                for machine in ("machine", "second") if scope == "machine" else ("",):
                    uri = uri_text(scope, entry_name).replace("<machine>", machine)
                    uri = uri.replace("<kernel_id>", kernel_id).replace("<authid>", owner)
                    name = names.setdefault(uri, Name(uri, "" if scope == "node" else owner))
                    setattr(name, kind, entry.access.value)
    return list(names.values())


#: What no role may do anything with, except follow it or, for reading, administrators. Nobody answers those of
#: our own prefix but the first, so who calls them is told that.
OTHERS = (
    "io.timbr.node.authorize", "io.timbr.node.no_such", "io.timbr.no_such", "com.example.anything",
    "wamp.session.kill", "wamp.session.kill_by_authid", "wamp.session.kill_by_authrole", "wamp.session.kill_all",
    "wamp.session.add_testament", "wamp.session.flush_testaments", "wamp.session.modify_details",
    "wamp.registration.remove_callee", "wamp.subscription.remove_subscriber", "wamp.subscription.get_events",
    "crossbar.worker.router.shutdown",
)  # fmt: skip


def expected(role: str, authid: str, action: str, name: Name, match: Match) -> bool:
    """What the rules say: `docs/explanation/security.md`, Roles."""
    access = name.procedure if action == "call" else name.topic
    if role == "host":
        if match != "exact":
            return False
        if action in ("register", "publish"):
            return name.owner == authid
        if action == "call":
            return access == "host"
        return access in ("read", "host") and name.owner in ("", authid)
    if action in ("register", "publish"):
        return False
    if role == "admin" and action == "subscribe":
        return match != "exact" or bool(name.owner) or access in CLASSES[role] or name.uri.startswith("wamp.")
    if match != "exact":
        return False
    unknown = not access and name.uri.startswith("io.timbr.") and name.uri != "io.timbr.node.authorize"
    if action == "call" and unknown:
        return True  # to nobody
    return access in CLASSES[role] or (role == "admin" and bool(name.owner))


async def is_allowed(who: PlainSession, action: str, name: Name, match: Match) -> bool:
    """Try it; tell whether the router allowed it."""
    uri = name.form(match)
    try:
        if action == "call":
            await who.call(uri)
        elif action == "publish":
            await who.publish(uri, options=PublishOptions(acknowledge=True))
        elif action == "register":
            registration = await who.register(
                lambda: None, uri, options=RegisterOptions(match=match, force_reregister=True)
            )
            await registration.unregister()
        else:
            await who.listen(uri, match=match)
    except ApplicationError as error:
        return error.error not in REFUSED
    return True


MATCHES: dict[str, tuple[Match, ...]] = {
    "call": ("exact",),
    "publish": ("exact",),
    "register": ("exact", "prefix", "wildcard"),
    "subscribe": ("exact", "prefix", "wildcard"),
}


@pytest.mark.parametrize("action", MATCHES)
@pytest.mark.parametrize("role", ["viewer", "operator", "admin", "host"])
@in_loop
async def test_a_role_may_do_what_the_rules_say_and_nothing_else(router: Router, role: str, action: str) -> None:
    authid, store = f"tried_{role}_{action}", TokenStore(router.node_dir)
    names = {name.uri: name for name in (*names_of(authid), *names_of(f"{authid}_2"), *map(Name, OTHERS))}
    attempts = [(name, match) for name in names.values() for match in MATCHES[action]]
    token = store.create(authid, role)
    wrong: list[str] = []
    try:
        async with session(router.url, token) as who:

            async def attempt(name: Name, match: Match) -> None:
                allowed = await is_allowed(who, action, name, match)
                if allowed is not expected(role, authid, action, name, match):
                    wrong.append(f"{action} {match} {name.form(match)}: {'allowed' if allowed else 'refused'}")

            for start in range(0, len(attempts), AT_ONCE):
                await asyncio.gather(*(attempt(*each) for each in attempts[start : start + AT_ONCE]))
    finally:
        store.revoke(authid)
    assert not wrong, f"{len(wrong)} of {len(attempts)}"


@pytest.mark.parametrize("form", ["no token", "no authid", "wrong secret", "unknown name", "secret of another"])
@in_loop
async def test_nobody_else_joins(router: Router, form: str) -> None:
    other = router.host_token.partition(".")[2]
    token = {
        "no token": None, "no authid": f".{other}", "wrong secret": "admin.x", "unknown name": f"nobody.{other}",
        "secret of another": f"admin.{other}",
    }[form]  # fmt: skip
    with pytest.raises(Refused):
        async with session(router.url, token):
            pass


@pytest.mark.parametrize("role", CLASSES)
@in_loop
async def test_who_may_call_a_procedure_is_told_when_nobody_answers_it(router: Router, role: str) -> None:
    """A role that is too low is told that, whether the kernel is there or not."""
    authid, store = f"missing_{role}", TokenStore(router.node_dir)
    kernel = f"io.timbr.kernel.{new_kernel_id(authid)}"
    token = store.create(authid, role)
    by_class = {"read": "machine.status", "operate": "machine.put", "admin": "execute"}
    try:
        async with session(router.url, token) as caller:
            for prefix in (kernel, "io.timbr.kernel.lab", "io.timbr.kernel.My-Kernel!", "io.timbr.kernel.ü"):
                for access, name in by_class.items():
                    allowed = access in CLASSES[role]
                    reason = "wamp.error.no_such_procedure" if allowed else "wamp.error.not_authorized"
                    assert await reason_of(caller, f"{prefix}.{name}") == reason, f"{prefix}.{name}"
            for uri in (f"{kernel}.no_such", f"{kernel}.machine.no_such", f"{kernel}.log.put", f"{kernel}",
                        "io.timbr.host.No-Host.list", "io.timbr.host.lab.no_such", "io.timbr.no_such"):  # fmt: skip
                assert await reason_of(caller, uri) == "wamp.error.no_such_procedure", uri
            for uri in ("com.example.anything", "io.timbrel.kernel.x.ping", "wamp.session.kill"):
                assert await reason_of(caller, uri) == "wamp.error.not_authorized", uri
    finally:
        store.revoke(authid)


@pytest.mark.parametrize("role", ["viewer", "operator"])
@in_loop
async def test_what_a_host_answers_beyond_the_contract_is_refused_and_not_told_to_be_missing(
    router: Router, role: str
) -> None:
    store, names = TokenStore(router.node_dir), (f"beyond_{role}", f"beyond_{role}_host")
    tokens = store.create(names[0], role), store.create(names[1], "host")
    uri = f"io.timbr.kernel.{new_kernel_id(names[1])}.of_its_own"
    try:
        async with (
            session(router.url, tokens[1]) as host,
            session(router.url, tokens[0]) as caller,
            session(router.url, router.admin_token) as admin,
        ):
            await host.register(lambda: 1, uri)
            assert await reason_of(caller, uri) == "wamp.error.not_authorized"
            assert await admin.call(uri) == 1
    finally:
        for name in names:
            store.revoke(name)


async def reason_of(caller: PlainSession, uri: str) -> str:
    """Call, and return the URI of the error."""
    (outcome,) = await asyncio.gather(caller.call(uri), return_exceptions=True)
    return str(getattr(outcome, "error", outcome))


def test_the_contract_has_all_that_is_tried() -> None:
    """The table must not lose its entries unseen: the test above would then try nothing."""
    tried = {name.uri.rsplit(".", 1)[-1] for name in names_of("lab")}
    assert {"execute", "slot_set", "put", "status", "list", "announce", "iopub", "records", "start"} <= tried
