"""What the node component decides: the files of ``router-config/``, without a router."""

from __future__ import annotations

import itertools
import json
import os
from functools import partial
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from timbr_wamp.contract import KernelInfo, KernelStateName, MachineBrief, MachineStateName, to_builtins
from timbr_wamp.contract.exports import access_table
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import ROLES, TokenStore

CONFIG = Path(__file__).parents[2] / "router-config"


@pytest.fixture(scope="module")
def modules() -> Any:
    """``timbr_access`` and ``timbr_presence`` as the router's worker imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONFIG)
        yield {name: _loaded(name) for name in ("timbr_access", "timbr_presence")}


def _loaded(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, CONFIG / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    import sys

    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def access(modules: Any) -> Any:
    return modules["timbr_access"].Access(json.loads(json.dumps(access_table())))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(modules: Any, clock: Clock) -> Any:
    return modules["timbr_presence"].Presence(clock=clock)


def info(kernel_id: str, **changes: Any) -> dict[str, Any]:
    return {"kernel_id": kernel_id, "name": "n", "host": kernel_id[:-13], "state": "idle", **changes}


# --- access ----------------------------------------------------------------------------------


def test_roles_are_the_same_on_both_sides(modules: Any) -> None:
    assert modules["timbr_access"].ROLES == ROLES


@given(st.sampled_from(ROLES), st.sampled_from(["call", "register", "publish", "subscribe"]), st.text(max_size=60))
def test_texts_that_are_no_uris_of_ours_are_refused(modules: Any, role: str, action: str, uri: str) -> None:
    access = modules["timbr_access"].Access(access_table())
    assert not access.allows(role, "lab", action, uri, "exact")
    if role == "host":
        assert not access.allows(role, "lab", action, uri, "prefix")


@pytest.mark.parametrize("tail", ["\n", ".", "..ping", ".Ping", " ", ".ping\n", "_2.ping"])
def test_a_hosts_prefix_is_matched_to_its_end(access: Any, tail: str) -> None:
    assert not access.allows("host", "lab", "register", "io.timbr.kernel.lab_0123456789ab" + tail, "exact")


def test_what_the_contract_does_not_know_is_for_nobody_but_admins(access: Any) -> None:
    for name in ("secret", "machine.secret"):
        uri = f"io.timbr.kernel.lab_0123456789ab.{name}"
        assert [role for role in ROLES if access.allows(role, "lab", "call", uri, "exact")] == ["admin"]


def test_each_role_may_do_all_that_the_lesser_one_may(access: Any) -> None:
    for scope in ("kernel", "machine", "host"):
        for name in access_table()[scope]["procedures"]:
            head = {"kernel": "kernel.lab_0123456789ab", "machine": "kernel.lab_0123456789ab.m", "host": "host.lab"}
            uri = f"io.timbr.{head[scope]}.{name}"
            viewer, operator, admin = (
                access.allows(role, "x", "call", uri, "exact") for role in ("viewer", "operator", "admin")
            )
            assert viewer <= operator <= admin
            assert admin


# --- tokens ----------------------------------------------------------------------------------


def test_refreshing_names_the_tokens_that_no_longer_count(modules: Any, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "node")
    ada = store.create("ada", "viewer").partition(".")[2]
    tokens = modules["timbr_access"].Tokens(tmp_path / "node" / "tokens.json")
    assert tokens.role_of("ada", ada) == "viewer"
    store.create("bob", "admin")
    assert tokens.refresh() == []
    store.revoke("ada")
    store.create("ada", "viewer")
    assert tokens.refresh() == ["ada"]
    assert tokens.role_of("ada", ada) is None
    assert tokens.role_of("nobody", ada) is None
    assert tokens.role_of("bob", None) is None


HASH = "0" * 64


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "{}", "[]", "null", "7", '"tokens"', '{"tokens": null}', '{"tokens": []}',
        '{"tokens": {"ada": null}}', '{"tokens": {"ada": []}}', '{"tokens": {"ada": {}}}',
        '{"tokens": {"ada": {"role": "viewer"}}}',
        '{"tokens": {"ada": {"role": "viewer", "sha256": null}}}',
        '{"tokens": {"ada": {"role": "viewer", "sha256": "x"}}}',
        '{"tokens": {"ada": {"role": "viewer", "sha256": "' + "\u00e9" * 64 + '"}}}',
        '{"tokens": {"ada": {"role": "king", "sha256": "' + HASH + '"}}}',
        '{"tokens": {"ada": {"role": ["viewer"], "sha256": "' + HASH + '"}}}',
        '{"tokens": {"ada": {"role": {}, "sha256": "' + HASH + '"}}}',
        '{"tokens": {"Ada!": {"role": "viewer", "sha256": "' + HASH + '"}}}',
        '{"tokens": {"' + "a" * 33 + '": {"role": "viewer", "sha256": "' + HASH + '"}}}',
        "[" * 100_000, b"\xff\xfe", b"\xef\xbb\xbf{}",
    ],
    ids=lambda content: repr(content)[:60],
)  # fmt: skip
def test_an_invalid_tokens_file_is_told_once_and_changes_nothing(
    modules: Any, tmp_path: Path, content: str | bytes
) -> None:
    secret = TokenStore(tmp_path / "node").create("ada", "viewer").partition(".")[2]
    path = tmp_path / "node" / "tokens.json"
    good = path.read_bytes()
    tokens = modules["timbr_access"].Tokens(path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert tokens.refresh() == []
    assert str(path) in tokens.problem
    assert tokens.role_of("ada", secret) == "viewer"
    path.write_bytes(good)
    assert tokens.refresh() == []
    assert tokens.problem is None
    started_with_it = modules["timbr_access"].Tokens(path)
    assert started_with_it.role_of("ada", secret) == "viewer"


def test_a_router_that_starts_with_an_invalid_tokens_file_has_no_tokens(modules: Any, tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{}")
    tokens = modules["timbr_access"].Tokens(tmp_path / "tokens.json")
    assert tokens.problem is not None
    assert tokens.role_of("ada", "secret") is None


def test_a_change_is_applied_when_the_router_says_so_of_this_content(modules: Any, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "node")
    store.create("ada", "viewer")
    assert not store.wait_applied(0.0)
    tokens = modules["timbr_access"].Tokens(tmp_path / "node" / "tokens.json")
    assert not store.wait_applied(0.0)
    tokens.confirm()
    assert store.wait_applied(5.0)
    store.revoke("ada")
    assert not store.wait_applied(0.0)
    assert tokens.refresh() == ["ada"]
    assert not store.wait_applied(0.0)
    tokens.confirm()
    assert store.wait_applied(5.0)


def test_a_missing_tokens_file_revokes_all(modules: Any, tmp_path: Path) -> None:
    secret = TokenStore(tmp_path / "node").create("ada", "viewer").partition(".")[2]
    path = tmp_path / "node" / "tokens.json"
    tokens = modules["timbr_access"].Tokens(path)
    os.unlink(path)
    assert tokens.refresh() == ["ada"]
    assert tokens.role_of("ada", secret) is None


# --- presence --------------------------------------------------------------------------------


def test_offline_kernels_are_forgotten_after_a_day(presence: Any, clock: Clock) -> None:
    presence.joined(1)
    presence.announce("lab", 1, info("lab_0123456789ab"))
    presence.left(1)
    clock.now += 24 * 3600.0
    assert len(presence.kernels()) == 1
    clock.now += 1.0
    assert presence.kernels() == []


def test_only_so_many_offline_kernels_are_kept_the_newest(presence: Any, modules: Any, clock: Clock) -> None:
    limit = modules["timbr_presence"].MAX_OFFLINE
    ids = [new_kernel_id("lab") for _ in range(limit + 10)]
    for number, kernel_id in enumerate(ids):
        clock.now += 1.0
        presence.joined(number)
        presence.announce("lab", number, info(kernel_id))
        presence.left(number)
    assert [kernel["kernel_id"] for kernel in presence.kernels()] == ids[10:]


def refusal_of_a_full_list(presence: Any, modules: Any, *hosts: str) -> Any:
    """Announce large kernels of the hosts in turn until one is refused; return the refusal."""
    for host in itertools.islice(itertools.cycle(hosts), 1000):
        try:
            presence.announce(host, 1, info(new_kernel_id(host), cwd="x" * 10_000))
        except modules["timbr_presence"].Refused as refused:
            return refused
    return None


def test_the_list_stays_under_the_routers_message_limit(presence: Any, modules: Any) -> None:
    presence.joined(1)
    refused = refusal_of_a_full_list(presence, modules, *(f"lab_{number}" for number in range(10)))
    assert refused.uri == "io.timbr.error.invalid_argument"
    assert refused.args[-1] == "the node's list of kernels is full"
    assert len(json.dumps(presence.kernels())) < 4 * 1024 * 1024 - 4096


def test_one_host_does_not_fill_the_list_for_others(presence: Any, modules: Any) -> None:
    presence.joined(1)
    presence.joined(2)
    assert refusal_of_a_full_list(presence, modules, "lab").args[-1] == "the host 'lab' has too many kernels"
    assert presence.announce("lab_2", 2, info(new_kernel_id("lab_2")))[0] == "came"
    presence.left(1)
    presence.joined(3)
    known = presence.kernels()[0]["kernel_id"]
    assert presence.announce("lab", 3, info(known))[0] == "came"  # its own kernels may always come back


def test_invented_kernel_ids_are_bounded_and_cost_nothing_when_their_session_leaves(
    presence: Any, modules: Any
) -> None:
    limit = modules["timbr_presence"].MAX_HOST_KERNELS
    presence.joined(1)
    presence.joined(2)
    claimed = [presence.claim(f"lab_{number:012x}", 1) for number in range(limit + 10)]
    assert claimed.count(True) == limit
    assert presence.claim(f"lab_{0:012x}", 1)
    assert presence.claim(f"lab_2_{0:012x}", 2)
    with pytest.raises(modules["timbr_presence"].Refused, match="too many kernels"):
        presence.announce("lab", 1, info(f"lab_{limit + 10:012x}"))
    assert presence.left(1) == []
    presence.left(2)
    assert presence._kernels == {}
    assert presence._hosts == {}


def test_only_one_session_answers_for_a_host_until_it_leaves(presence: Any) -> None:
    presence.joined(1)
    presence.joined(2)
    assert presence.claim_host("lab", 1)
    assert presence.claim_host("lab", 1)
    assert not presence.claim_host("lab", 2)
    assert presence.claim_host("lab_2", 2)
    presence.left(1)
    assert not presence.claim_host("lab", 1)
    assert presence.claim_host("lab", 2)


def test_a_session_that_left_says_nothing_more(presence: Any, modules: Any) -> None:
    presence.joined(1)
    presence.left(1)
    assert not presence.claim("lab_0123456789ab", 1)
    with pytest.raises(modules["timbr_presence"].Refused):
        presence.announce("lab", 1, info("lab_0123456789ab"))
    assert presence.left(1) == []


@given(st.lists(st.tuples(st.sampled_from(["join", "announce", "leave"]), st.integers(0, 4)), max_size=40))
def test_the_newest_session_that_spoke_is_the_one_that_is_listed(modules: Any, steps: list[tuple[str, int]]) -> None:
    presence = modules["timbr_presence"].Presence(clock=lambda: 0.0)
    here: dict[int, int] = {}
    joined, speaker = itertools.count(1), 0
    for verb, who in steps:
        if verb == "join" and who not in here:
            here[who] = next(joined)
            presence.joined(here[who])
        elif verb == "announce" and who in here:
            session, newer_speaks = here[who], speaker in here.values() and speaker > here[who]
            try:
                presence.announce("lab", session, info("lab_0123456789ab", name=str(session)))
                assert not newer_speaks
                speaker = session
            except modules["timbr_presence"].Refused:
                assert newer_speaks
        elif verb == "leave" and who in here:
            session = here.pop(who)
            assert bool(presence.left(session)) is (session == speaker)
        listed = presence.kernels()
        assert [kernel["name"] for kernel in listed] == ([str(speaker)] if speaker else [])
        online = speaker in here.values()
        assert all((kernel["state"] == "offline") is not online for kernel in listed)


@pytest.mark.parametrize(
    "field",
    [
        {"cwd": "\ud800"}, {"later": {"\udfff": 1}}, {"later": [float("nan")]}, {"later": {1: 2}}, {"later": b"x"},
        {"later": [[2**64]]}, {"later": -(2**63) - 1},
    ],
)  # fmt: skip
def test_what_not_everybody_could_get_in_the_list_is_refused(presence: Any, modules: Any, field: Any) -> None:
    presence.joined(1)
    with pytest.raises(modules["timbr_presence"].Refused) as raised:
        presence.announce("lab", 1, info("lab_0123456789ab", **field))
    assert raised.value.uri == "io.timbr.error.invalid_argument"
    assert raised.value.args[1].encode()


def test_an_announcement_of_each_form_of_the_contract_is_taken(modules: Any) -> None:
    presence = modules["timbr_presence"].Presence(json.loads(json.dumps(access_table()))["announced"])
    presence.joined(1)
    machines = [MachineBrief(name="m", run="r", state=state) for state in get_args(MachineStateName)]
    for state in get_args(KernelStateName):
        kernel = KernelInfo(kernel_id="lab_0123456789ab", name="pump", host="lab", state=state, machines=machines)
        full = KernelInfo(**{**structs.asdict(kernel), "pid": 5, "wamp_session": 1, "cwd": "/", "started_at": 1.5})
        for each in (kernel, full):
            presence.announce("lab", 1, to_builtins(each))
    later = {**to_builtins(full), "field_of_a_later_version": {"any": [1, None]}}
    assert presence.announce("lab", 1, later)[1]["field_of_a_later_version"]


@pytest.mark.parametrize(
    ("uri", "roles"),
    [
        ("io.timbr.kernel.bogus.machine.status", {"viewer", "operator", "admin"}),
        ("io.timbr.kernel.Bo-gus.machine.put", {"operator", "admin"}),
        ("io.timbr.kernel.lab_0123456789ab.execute", {"admin"}),
        ("io.timbr.kernel.lab_0123456789ab.no_such", {"viewer", "operator", "admin"}),
        ("io.timbr.kernel.lab_0123456789ab", {"viewer", "operator", "admin"}),
        ("io.timbr.host.nobody.list", {"viewer", "operator", "admin"}),
        ("io.timbr.host.Nobody.start", {"admin"}),
        ("io.timbr.node.announce", set()),
        ("com.example.no_such", set()),
        ("wamp.session.no_such", set()),
        ("io.timbr..list", set()),
        ("io.timbr.kernel.a b.ping", set()),
    ],
)
def test_only_who_may_call_a_procedure_may_hear_that_it_is_missing(access: Any, uri: str, roles: set[str]) -> None:
    assert {role for role in (*ROLES, "trusted", "") if access.may_be_missing(role, uri)} == roles


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("session.count", [[], [None], [["admin"]]], [[5], [[5]], [[], []]]),
        ("session.get", [[5], [2.0**52]], [[], ["5"], [None], [True], [5, 5], [0.5], [float("nan")]]),
        ("subscription.list", [[], [5]], [["5"]]),
        ("registration.match", [["a.b"]], [[], [5]]),
        (
            "registration.lookup",
            [["a.b"], ["a.b", None], ["a.b", {"match": "prefix"}]],
            [["a.b", 5], ["a", {"match": 5}]],
        ),
        ("subscription.count_subscribers", [[5]], [[[5]]]),
    ],
)
def test_what_an_administrator_asks_the_router_is_checked(
    modules: Any, name: str, right: list[Any], wrong: list[Any]
) -> None:
    problem = partial(modules["timbr_access"].problem_of_admin_call, f"wamp.{name}")
    assert modules["timbr_access"].ADMIN_CALLS.fullmatch(f"wamp.{name}")
    assert [problem(args, None) for args in right] == [None] * len(right)
    assert None not in [problem(args, None) for args in wrong]
    assert "by position" in problem([], {"id": 5})
