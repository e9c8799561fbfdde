"""What the client makes of functions, arguments, kernels and settings before anything is sent."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import os
from pathlib import Path

import cloudpickle
import pytest
from click.testing import CliRunner

import timbr_wamp.client
from timbr_wamp import runtime
from timbr_wamp.cli import main
from timbr_wamp.client.arguments import sendable, wire_arguments
from timbr_wamp.client.client import UnencryptedConnection, connect, find_router
from timbr_wamp.client.functions import as_source, function_ref, reference, source_text
from timbr_wamp.client.kernel_list import KernelList, choose
from timbr_wamp.client.session import split_token
from timbr_wamp.components.bridge_process import bridge_environment
from timbr_wamp.contract import KERNEL, MACHINE, FunctionRef, KernelInfo, MachineBrief
from timbr_wamp.errors import AmbiguousKernel, InvalidArgument, InvalidToken, NoRouter, NotConnected, UnknownKernel
from timbr_wamp.runtime import NodeFile
from timbr_wamp.settings import Settings
from timbr_wamp.values import to_json

# --- functions -----------------------------------------------------------------------------------


def test_a_function_travels_by_value_with_its_source():
    factor = 3

    def triple(x):
        return x * factor

    ref = function_ref(triple)
    assert ref.kind == "cloudpickle"
    assert cloudpickle.loads(ref.data)(4) == 12
    assert ref.text == "def triple(x):\n    return x * factor\n"
    assert as_source(ref) == FunctionRef(kind="source", text=ref.text)


def test_a_lambda_brings_just_its_expression():
    square = lambda x: x**2  # noqa: E731
    pair = [lambda x: x + 1, lambda y: y - 1]
    assert source_text(square) == "lambda x: x**2"
    assert source_text(pair[0]) == "lambda x: x + 1"
    assert source_text(pair[1]) == "lambda y: y - 1"
    twins = [lambda x: x + 1, lambda x: x - 1]
    assert source_text(twins[0]) is None  # ambiguous: either of the two


def test_texts_and_references_travel_as_they_are():
    assert function_ref("lambda x: x") == FunctionRef(kind="source", text="lambda x: x")
    assert reference("math:sqrt") == FunctionRef(kind="reference", text="math:sqrt")
    ref = function_ref(math.sqrt)
    assert (ref.kind, ref.text) == ("cloudpickle", None)
    assert as_source(ref) is None
    assert function_ref(ref) is ref


def test_what_cannot_be_pickled_is_refused_with_the_way_out():
    with pytest.raises(InvalidArgument, match="source text"):
        function_ref(x for x in range(3))


# --- arguments -----------------------------------------------------------------------------------


def test_arguments_go_by_position_without_trailing_defaults():
    assert wire_arguments(MACHINE["status"], (), {}) == []
    assert wire_arguments(MACHINE["errors"], (50,), {}) == []
    assert wire_arguments(MACHINE["errors"], (), {"n": 7}) == [7]
    assert wire_arguments(MACHINE["stop"], (), {"timeout_s": 2.0}) == [False, 2.0]
    assert wire_arguments(KERNEL["execute"], ("1", False, True, None), {}) == ["1"]
    message = {"a": [1, 2.5, None]}
    assert wire_arguments(MACHINE["put"], (message, None), {})[0] is message  # not copied
    ref = FunctionRef(kind="source", text="x")
    assert wire_arguments(MACHINE["slot_set"], (0, [ref, None]), {}) == [
        0,
        [{"kind": "source", "text": "x", "data": None, "python": None}, None],
    ]
    with pytest.raises(InvalidArgument):
        wire_arguments(MACHINE["slot_set"], (), {})
    with pytest.raises(InvalidArgument):
        wire_arguments(MACHINE["errors"], ("many",), {})


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ({1: 2}, {"1": 2}),
        ({None: 1, True: 2}, {"None": 1, "True": 2}),
        ({(1, 2): 1}, {"(1, 2)": 1}),
        ([{"a": {1.5: [{2: 3}]}}], [{"a": {"1.5": [{"2": 3}]}}]),
        ({3, 1}, [1, 3]),
        ((1, (2,)), (1, (2,))),
        (Colour.RED, "red"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        ({"frame": b"\x00\xff", "n": (1,)}, {"frame": b"\x00\xff", "n": (1,)}),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_what_the_router_cannot_pass_on_is_converted_as_a_machine_writes_it(value: object, sent: object):
    assert sendable(value, "message") == sent
    assert to_json(sent) == to_json(value)  # as in the records of a machine of this process
    assert wire_arguments(MACHINE["put"], (value, None), {})[0] == sent
    assert wire_arguments(MACHINE["put_many"], ([value], ["0" * 24]), {})[0] == [sent]


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [2**70, -(2**63) - 1, "\ud800", object(), [1, {2: object()}], {1: 1, "1": 2}, deep(150), {1: b"x"}],
    ids=["2**70", "-2**63-1", "surrogate", "object", "nested", "two keys", "deep", "key and bytes"],
)
def test_what_has_no_such_form_is_refused_by_name_before_anything_is_sent(value: object):
    with pytest.raises(InvalidArgument, match="message"):
        sendable(value, "message")


def test_nan_is_sent_as_it_is_because_the_slots_get_it():
    assert math.isnan(sendable({"x": math.nan}, "message")["x"])


# --- kernels -------------------------------------------------------------------------------------


def kernel(kernel_id: str, name: str, state: str = "idle") -> KernelInfo:
    return KernelInfo(kernel_id=kernel_id, name=name, host=kernel_id[:-13], state=state)


PUMP, PUMP2, OLD = (
    kernel("lab_0123456789ab", "pump"),
    kernel("lab_1123456789ab", "pump2"),
    kernel("lab_2123456789ab", "pump", "offline"),
)


def test_a_kernel_is_chosen_by_id_name_or_unique_beginning():
    kernels = [PUMP, PUMP2, OLD]
    assert choose(kernels, "lab_1123456789ab") is PUMP2
    assert choose(kernels, "lab_11") is PUMP2
    assert choose(kernels, "pump2") is PUMP2
    assert choose(kernels, "pump") is PUMP  # its offline predecessor does not count
    assert choose([PUMP, OLD], None) is PUMP
    assert choose([OLD], "pump") is OLD
    with pytest.raises(AmbiguousKernel) as raised:
        choose(kernels, "lab_")
    assert len(raised.value.candidates) == 3
    with pytest.raises(AmbiguousKernel, match=r"there are several kernels; name one of: lab_.*\(pump"):
        choose(kernels, None)
    with pytest.raises(UnknownKernel, match="pump2"):
        choose(kernels, "nobody")
    with pytest.raises(UnknownKernel):
        choose([], None)


def test_a_name_that_another_host_gave_to_its_kernel_is_ambiguous_even_while_the_first_is_offline():
    impostor = kernel("mallory_0123456789ab", "pump")
    for first in (PUMP, OLD):
        with pytest.raises(AmbiguousKernel, match="mallory_0123456789ab"):
            choose([first, impostor], "pump")
    with pytest.raises(AmbiguousKernel):
        choose([OLD, PUMP, impostor], "pump")
    gone = kernel("mallory_1123456789ab", "pump", "offline")
    with pytest.raises(AmbiguousKernel):
        choose([PUMP, gone], "pump")
    assert choose([OLD, PUMP], "pump") is PUMP


def test_a_kernel_id_is_never_taken_for_a_name():
    impostor = kernel("mallory_0123456789ab", PUMP.kernel_id)
    assert choose([impostor, PUMP], PUMP.kernel_id) is PUMP
    with pytest.raises(UnknownKernel):
        choose([impostor], PUMP.kernel_id)


def test_the_kernel_that_asks_is_chosen_by_its_name_only():
    own = {PUMP.kernel_id}
    assert choose([PUMP, PUMP2], None, own) is PUMP2
    assert choose([PUMP, PUMP2], "pump", own) is PUMP
    with pytest.raises(UnknownKernel, match="no kernel but this one"):
        choose([PUMP, OLD], None, own)


def test_a_list_of_kernels_reads_well_and_escapes_html():
    wild = KernelInfo(
        kernel_id="lab_0123456789ab",
        name="<script>alert(1)</script>",
        host="lab",
        state="idle",
        machines=[MachineBrief(name="machine", run="r", state="running")],
    )
    listed = KernelList([wild, PUMP2])
    assert "<script>" not in listed._repr_html_()
    assert "&lt;script&gt;" in listed._repr_html_()
    lines = repr(listed).splitlines()
    assert len(lines) == 3
    assert "machine: running" in lines[1]
    assert "timbr-wamp" in repr(KernelList())


# --- where to connect ----------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(runtime_dir=tmp_path / "run", data_dir=tmp_path / "data", host="lab")


def write_node(settings: Settings, pid: int) -> NodeFile:
    node = NodeFile(
        pid=pid,
        process_started=runtime.own_process_started(),
        url="ws://127.0.0.1:1/ws",
        unix_url="rs+unix:///run/r.sock",
        page_url="http://127.0.0.1:1/",
        realm="local",
        node_dir="/node",
        token="admin.secret",
        host_token="lab.secret",
    )
    runtime.write_file(runtime.node_file(settings.runtime_dir), node)
    return node


def test_without_anything_there_is_no_router(settings: Settings):
    with pytest.raises(NoRouter, match="timbr-wamp up"):
        connect(settings=settings)
    write_node(settings, pid=2**22 - 7)  # dead
    with pytest.raises(NoRouter):
        connect(settings=settings)


def test_the_local_routers_file_is_the_default_and_its_token_stays_home(settings: Settings):
    node = write_node(settings, os.getpid())
    target = find_router(None, None, None, settings)
    assert (target.url, target.realm, target.token) == (node.url, "local", "admin.secret")
    assert "secret" not in repr(target)
    assert find_router(node.unix_url, None, None, settings).token == "admin.secret"
    assert find_router(None, "vic.other", "realm", settings).token == "vic.other"
    assert find_router("ws://LOCALHOST:1/ws", None, None, settings) == find_router(node.url, None, None, settings)
    with pytest.warns(UnencryptedConnection):
        assert find_router("ws://example.org/ws", None, None, settings).token is None  # never sent to another router


def given(settings: Settings, url: str | None, token: str | None, realm: str = "timbr") -> Settings:
    return dataclasses.replace(settings, url=url, token=token, realm=realm)


def test_settings_come_before_the_local_routers_file(settings: Settings):
    write_node(settings, os.getpid())
    configured = given(settings, "wss://example.org/ws", "ada.s", "theirs")
    target = find_router(None, None, None, configured)
    assert (target.url, target.realm, target.token) == ("wss://example.org/ws", "theirs", "ada.s")
    assert find_router("wss://other/ws", "x.y", None, configured).url == "wss://other/ws"


def test_a_realm_that_was_asked_for_or_configured_is_not_replaced_by_the_local_routers(settings: Settings):
    write_node(settings, os.getpid())
    assert find_router(None, None, "timbr", settings).realm == "timbr"
    configured = given(settings, None, "vic.s", "theirs")
    assert find_router(None, None, None, configured).realm == "theirs"
    assert bridge_environment(configured).realm == "theirs"
    assert bridge_environment(settings).realm == "local"


@pytest.mark.parametrize("words", [["list"], ["kernel", "stop", "lab"]], ids=["list", "kernel stop"])
def test_a_command_asks_for_the_realm_of_its_option(monkeypatch: pytest.MonkeyPatch, words: list[str]):
    asked: list[object] = []

    def connect(*, realm: str | None, **others: object) -> None:
        asked.append(realm)
        raise NotConnected("ws://127.0.0.1:1/ws", "it has no realm")

    monkeypatch.setattr(timbr_wamp.client, "connect", connect)
    done = CliRunner().invoke(main, [*words, "--url", "ws://127.0.0.1:1/ws", "--realm", "timbr"])
    assert (done.exit_code, asked) == (1, ["timbr"])


def test_a_token_goes_to_its_own_url_and_to_no_other(settings: Settings):
    node = write_node(settings, os.getpid())
    configured = given(settings, "wss://example.org/ws", "ada.s")
    assert find_router("wss://EXAMPLE.org:443/ws/", None, None, configured).token == "ada.s"
    for other in ("wss://example.org.evil/ws", "wss://example.org:444/ws", "wss://a@example.org"):
        assert find_router(other, None, None, configured).token is None
    assert find_router(node.url, None, None, configured).token == "admin.secret"
    local = given(settings, None, "vic.s")  # set without a URL: for the local router
    assert find_router(None, None, None, local).token == "vic.s"
    assert find_router(node.unix_url, None, None, local).token == "vic.s"
    assert find_router("wss://example.org/ws", None, None, local).token is None


def test_a_token_that_would_cross_a_network_as_clear_text_warns(settings: Settings):
    for url in ("ws://example.org/ws", "WS://10.0.0.7/ws"):
        with pytest.warns(UnencryptedConnection, match="not encrypted"):
            find_router(url, "ada.s", None, settings)
    for url in ("ws://127.0.0.1:8080/ws", "ws://localhost/ws", "wss://example.org/ws", "rs+unix:///run/r.sock"):
        find_router(url, "ada.s", None, settings)  # warnings are errors here


def test_a_bridge_sends_the_local_hosts_token_to_the_local_router_only(settings: Settings):
    node = write_node(settings, os.getpid())
    assert bridge_environment(settings).token == "lab.secret"
    assert bridge_environment(given(settings, node.url, None)).token == "lab.secret"
    with pytest.raises(InvalidToken):
        bridge_environment(given(settings, "wss://example.org/ws", None))
    assert bridge_environment(given(settings, "wss://example.org/ws", "lab.other")).token == "lab.other"


def test_a_token_is_a_name_and_a_secret():
    assert split_token("ada.x.y\n") == ("ada", "x.y")
    for text in ("", "ada", "ada.", ".x"):
        with pytest.raises(InvalidToken):
            split_token(text)
