"""`docs/reference/wire.md` is what WAMP libraries of JavaScript get: wampy and autobahn-js, JSON and msgpack."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from bridging import a_kernel
from odd_calls import HOST_USUAL, USUAL
from plain_wamp import kernel_info
from wait_kit import wait_until

from timbr_wamp.client import RemoteKernel, connect
from timbr_wamp.contract import (
    KERNEL,
    MACHINE,
    NODE,
    PAYLOAD_LIMIT_BYTES,
    PROCEDURES,
    ROUTER_LIMIT_BYTES,
    TOPICS,
    Access,
    BlockRow,
    IopubMessage,
    Procedure,
    RecordMeta,
    RecordsBatch,
    Status,
)
from timbr_wamp.contract.exports import _left_out, uri_text
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ANSWER_LIMIT_S = 30.0
STARTUP = """
import timbr_wamp

def fails(value):
    if value == "fail":
        raise ValueError("as asked")
    return value

m = timbr_wamp.Machine(4)
m[1] = fails
m.start()
"""
#: The libraries and their serializers.
CLIENTS = [(library, kind) for library in ("wampy", "autobahn") for kind in ("json", "msgpack")]
#: Arguments of read procedures that have required ones; the others are called without.
ARGUMENTS: dict[str, list[Any]] = {"slot": [1]}


class NodeClient:
    """A client in Node.js, driven by ``tests/node/wire.mjs``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ready(self) -> None:
        """Wait until it has joined."""
        assert self.next_line() == "ready\n"

    def next_line(self) -> str:
        """Return the next line that it printed; empty when it ended."""
        return self._answers.get(timeout=ANSWER_LIMIT_S)

    def ask(self, **order: Any) -> Any:
        """Give an order and return what became of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self.next_line()
        while line and not line.startswith("{"):  # autobahn-js prints how the connection ended
            line = self.next_line()
        assert line, "the client ended"
        return json.loads(line, object_hook=_integers)

    def result(self, **order: Any) -> Any:
        """Return the result of an order that succeeds."""
        answer = self.ask(**order)
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        """End the client."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait(5.0)
            self._reader.join(5.0)
            if self._process.stdout is not None:
                self._process.stdout.close()


def _integers(found: dict[str, Any]) -> Any:
    return int(found["$bigint"]) if "$bigint" in found else found


@pytest.fixture(scope="module")
def kernel(router: Router, settings: Settings, node_packages: Path) -> Iterator[RemoteKernel]:
    """A kernel with a machine on the router."""
    with (
        tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder,
        a_kernel(settings, Path(folder), STARTUP) as file,
    ):
        bridge = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", file.kernel_id])
        try:
            with connect(settings=settings) as client:
                client.wait_connected()
                wait_for_machine(client, file.kernel_id)
                yield client.kernel(file.kernel_id)
        finally:
            bridge.terminate()
            bridge.wait(10)


def wait_for_machine(client: Any, kernel_id: str) -> None:
    """Wait until the list of kernels has the kernel with its machine."""
    found = threading.Event()

    def look(*_: object, **__: object) -> None:
        if any(kernel.kernel_id == kernel_id and kernel.machines for kernel in client.kernels()):
            found.set()

    with client.on("io.timbr.kernel.discovery", look):
        look()
        assert found.wait(ANSWER_LIMIT_S)


@contextmanager
def node_client(packages: Path, library: str, kind: str, url: str, token: str) -> Iterator[NodeClient]:
    """A client of a library with a serializer, which joins while its caller goes on; see `NodeClient.ready`."""
    process = subprocess.Popen(
        ["node", str(packages / "wire.mjs"), library, kind, url],
        env={**os.environ, "TIMBR_WAMP_TOKEN": token},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    client = NodeClient(process)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(params=CLIENTS, ids="-".join)
def node(request: pytest.FixtureRequest, router: Router, node_packages: Path) -> Iterator[NodeClient]:
    """A client of each library with each serializer."""
    with node_client(node_packages, *request.param, router.url, router.admin_token) as client:
        client.ready()
        yield client


# --- the form of values --------------------------------------------------------------------------


def check_form(value: Any, hint: Any, where: str) -> None:
    """Fail unless a value is of a type of the wire to the letter: every field, and no other."""
    if hint is Any:
        return
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in args if kind is not type(None)]
        if value is None:
            assert len(kinds) < len(args), where
            return
        check_form(value, kinds[0] if len(kinds) == 1 else Any, where)
    elif origin is Literal:
        assert value in args, where
    elif origin in (list, tuple):
        assert isinstance(value, list), where
        kinds = [args[0]] * len(value) if origin is list or args[-1] is ... else list(args)
        assert len(kinds) == len(value), where
        for number, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            check_form(item, kind, f"{where}[{number}]")
    elif origin is dict:
        for key, item in value.items():
            check_form(item, args[1], f"{where}.{key}")
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        check_struct(value, hint, where)
    else:
        plain = {int: int, float: (int, float), str: str, bool: bool, type(None): type(None), None: type(None)}
        assert isinstance(value, plain[hint]), f"{where} is {value!r}"


def check_struct(value: Any, struct: type[msgspec.Struct], where: str) -> None:
    hints, fields = typing.get_type_hints(struct), struct.__struct_fields__
    if struct.__struct_config__.array_like:
        assert len(value) == len(fields), where
        value = dict(zip(fields, value, strict=True))
    may_lack = set(_left_out(struct))
    assert set(value) <= set(fields), where
    assert set(fields) - may_lack <= set(value), where
    for name, item in value.items():
        check_form(item, hints[name], f"{where}.{name}")


def uri_of(kernel: RemoteKernel, *parts: str) -> str:
    return ".".join(("io.timbr.kernel", kernel.id, *parts))


def readable(table: dict[str, Procedure]) -> list[str]:
    """Return the read procedures that can be called without preparation."""
    missing = {name: [p for p in each.parameters if p.default is p.empty] for name, each in table.items()}
    return [
        name
        for name, each in table.items()
        if each.access is Access.READ and (not missing[name] or name in ARGUMENTS) and name != "progress"
    ]


def test_every_result_has_the_form_that_the_page_says(node, kernel):
    machine = uri_of(kernel, "machine")
    assert node.result(call=f"{machine}.put_many", args=[[1, "fail"]])["refused"] == 0
    kernel.machine().wait(10.0)
    scopes = [("io.timbr.kernel", {"list": NODE["list"]}), (uri_of(kernel), KERNEL), (machine, MACHINE)]
    tried = 0
    for prefix, table in scopes:
        for name in readable(table):
            value = node.result(call=f"{prefix}.{name}", args=ARGUMENTS.get(name, []))
            if prefix == "io.timbr.kernel":  # other tests announce kernels of their own
                value = [each for each in value if each["kernel_id"] == kernel.id]
                assert value
            check_form(value, table[name].result_type, name)
            tried += 1
    assert tried >= 11
    status = node.result(call=f"{machine}.status")
    page = node.result(call=f"{machine}.records", kwargs={"run": status["run"], "after_seq": status["last_seq"] - 2})
    check_form(page, MACHINE["records"].result_type, "records")
    assert [batch["last_seq"] for batch in page["batches"]][-1] == status["last_seq"]
    errors = node.result(call=f"{machine}.errors", args=[1])
    assert [(error["exc_class"], error["exc_value"], error["task"]) for error in errors] == [
        ("ValueError", "as asked", "f1")
    ]


def until_seen(node: NodeClient, topic: str, action: Callable[[], object]) -> None:
    """Repeat an action until an event of the topic comes: who publishes may hear of the subscription a moment later."""

    def seen() -> Any:
        found = node.result(seen=topic)
        if not found:
            action()
        return found

    wait_until(seen, f"an event of {topic}", ANSWER_LIMIT_S)


def values_of(row: list[Any], layout: list[int]) -> list[Any]:
    """Return ``[in, f0, …]`` of a row of a block, as the page says."""
    if row[2] is None:
        return []
    return [value for value, times in zip(row[2], layout or [1] * len(row[2]), strict=True) for _ in range(times)]


def test_records_come_as_the_page_says(node, kernel):
    machine = uri_of(kernel, "machine")
    for topic in (machine, f"{machine}.records"):
        node.result(subscribe=topic)
    sent = [1, 2.5, "ü\u2028\U0001f600", None, True, {"a": [1, {}]}, [], -(2**31), 2**53 - 1]
    until_seen(node, machine, lambda: node.result(call=f"{machine}.put", args=["first"]))
    until_seen(node, f"{machine}.records", lambda: node.result(call=f"{machine}.put", args=["first"]))
    oids = node.result(call=f"{machine}.put_many", kwargs={"messages": sent})["oids"]
    rows: dict[str, Any] = {}
    while oids[-1] not in rows:
        for batch in node.result(blocks=f"{machine}.records", count=1):
            check_form({**batch, "block": ""}, RecordsBatch, "batch")
            check_form(batch["block"], list[BlockRow], "block")
            assert len(batch["block"]) == batch["count"] == batch["last_seq"] - batch["first_seq"] + 1
            rows |= {row[1]: (row, values_of(row, batch["layout"])) for row in batch["block"]}
    assert [rows[oid][1] for oid in oids] == [[message] * 5 for message in sent]
    for row, values in (rows[oid] for oid in oids):
        meta = row[3]
        check_form(meta, RecordMeta, "meta")
        record = node.result(call=f"{machine}.record", args=[meta["run"], meta["seq"]])
        assert (json.loads(record[2]), json.loads(record[3])) == (values, meta)
    single = node.result(events=machine, count=1)[0]
    assert len(single[0]) == 2
    assert len(single[0][1]) == 5


def test_texts_of_records_have_every_digit(node, kernel):
    message = [2**53 + 1, -(2**63), 2**64 - 1]
    remote = kernel.machine()
    oid = remote.put(message)
    assert remote.wait(10.0)
    rows = node.result(call=uri_of(kernel, "machine", "recent"), args=[50])
    text = next(row[2] for row in rows if row[1] == oid)
    assert json.loads(text) == [message] * 5


def test_events_and_progressive_results_come_as_the_page_says(node, kernel):
    machine = uri_of(kernel, "machine")
    topics = {f"{machine}.{name}": TOPICS["machine"][name].payload for name in ("status", "event")}
    for topic in topics:
        node.result(subscribe=topic)
    function = {"kind": "source", "text": "lambda x: x"}
    until_seen(node, f"{machine}.event", lambda: node.result(call=f"{machine}.slot_set", args=[0, function]))
    event = node.result(events=f"{machine}.event", count=1)[0][0][0]
    check_form(event, topics[f"{machine}.event"], "event")
    assert event["kind"] == "slot_changed"
    node.result(call=f"{machine}.slot_delete", args=[0])
    check_form(node.result(events=f"{machine}.status", count=1)[0][0][0], Status, "status")
    answer = node.ask(call=uri_of(kernel, "execute_interactive"), args=["print(6 * 7)\n1 / 0"], progress=True)
    check_form(answer["result"], KERNEL["execute_interactive"].result_type, "reply")
    assert answer["result"]["ename"] == "ZeroDivisionError"
    shown = [part for part in answer["progress"] if part["msg_type"] == "stream"]
    assert [part["content"]["text"] for part in shown] == ["42\n"]
    for part in answer["progress"]:
        check_form({**part, "buffers": []}, IopubMessage, "output")


def test_an_error_has_its_uri_its_data_and_a_sentence(node, kernel):
    machine = uri_of(kernel, "machine")
    answer = node.ask(call=f"{machine}.slot", args=[77])
    assert (answer["error"], answer["args"]) == ("io.timbr.error.slot_out_of_range", [77, 4])
    assert answer["kwargs"]["message"] == "no slot 77: this machine has slots 0 to 3"
    answer = node.ask(call=f"{machine}.put", kwargs={"massage": 1})
    assert answer["error"] == "io.timbr.error.invalid_argument"
    assert node.ask(call=f"{machine}.nothing")["error"] == "wamp.error.no_such_procedure"


def test_limits_are_those_of_the_page(node, kernel):
    put = uri_of(kernel, "machine", "put")
    assert "error" not in node.ask(put=put, characters=PAYLOAD_LIMIT_BYTES - 1000)
    answer = node.ask(put=put, characters=PAYLOAD_LIMIT_BYTES + 1)
    assert answer["error"] == "io.timbr.error.payload_too_large"
    assert answer["args"][1] == PAYLOAD_LIMIT_BYTES
    assert "error" not in node.ask(put=put, characters=1)  # the connection lives
    assert "error" in node.ask(put=put, characters=ROUTER_LIMIT_BYTES + 1)
    assert node.ask(put=put, characters=1)["error"] == "closed"  # this one has ended it
    assert kernel.ping() > 0  # and nobody else's


#: A procedure of each kind, with usual arguments, for `test_odd_values_cost_nobody_anything`.
ODDLY_CALLED: dict[str, list[Any]] = {
    "machine.put": [1, None],
    "machine.put_many": [[1], None, 0.0],
    "machine.slot": [1],
    "machine.policy_set": [1, {"on_error": "record"}],
    "complete": ["pri", 1],
    "ping": [],
}


def is_answered(error: str | None) -> bool:
    """Return whether a call had a result or an error that says what was wrong, or was not sent by the library."""
    if error in ("wamp.error.runtime_error", "wamp.error.canceled"):
        return False
    return error is None or error.startswith(("io.timbr.error.", "wamp.error.", "thrown: "))


def test_odd_values_cost_nobody_anything(node, kernel):
    """Each call is answered, unless the library itself does not send it."""
    before = kernel.info()
    wrong = []
    for name, usual in ODDLY_CALLED.items():
        for value, position, error in node.result(odd=uri_of(kernel, *name.split(".")), args=usual):
            if not is_answered(error):
                wrong.append(f"{name}: {value} at {position}: {error}")
    assert not wrong, "\n".join(wrong)
    assert kernel.info().wamp_session == before.wamp_session
    assert kernel.machine().status.name == "machine"


#: Each so-many-th odd call of a procedure is made by each role with each client.
ODD_EVERY = 20


def every_procedure(kernel: RemoteKernel, host: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the URI of every procedure of the contract, and usual arguments."""
    usual = {**USUAL, "configure": [1024, 4, 1]}
    for scope, table in PROCEDURES.items():
        for name, procedure in table.items():
            uri = uri_text(scope, name).replace("<machine>", "machine")
            uri = uri.replace("<kernel_id>", kernel.id).replace("<authid>", host)
            if scope == "node":
                yield uri, [kernel_info(new_kernel_id(host))] * len(procedure.parameters)
            else:
                yield uri, (HOST_USUAL if scope == "host" else usual).get(name, [])


@pytest.fixture
def unchanged(kernel: RemoteKernel) -> Iterator[RemoteKernel]:
    """The kernel; what odd calls change of its machine is taken back."""
    machine = kernel.machine()
    revision = machine.status.revision
    yield kernel
    machine.rollback(revision)
    machine.configure(bufsize=1024, stages=4, concurrency=1)
    machine.set_policy(None, "record")
    machine.start()
    assert machine.wait(20.0)


@pytest.mark.parametrize("client", CLIENTS, ids="-".join)
def test_every_procedure_answers_every_role_whatever_it_is_called_with(
    client: tuple[str, str], unchanged: RemoteKernel, router: Router, node_packages: Path
):
    before = unchanged.info()
    store, roles = TokenStore(router.node_dir), ("viewer", "operator", "admin", "host")
    names = {role: f"js_{role}_{client[0]}_{client[1]}" for role in roles}
    tokens = {role: store.create(name, role) for role, name in names.items()}
    wrong, count = [], 0
    try:
        with ExitStack() as stack:
            nodes = {
                role: stack.enter_context(node_client(node_packages, *client, router.url, tokens[role]))
                for role in roles
            }
            for number, (role, node) in enumerate(nodes.items()):
                node.ready()
                for first, (uri, usual) in enumerate(every_procedure(unchanged, names["host"]), number):
                    for value, position, error in node.result(odd=uri, args=usual, every=ODD_EVERY, first=first):
                        count += 1
                        if not is_answered(error):
                            wrong.append(f"{role}: {uri}: {value} at {position}: {error}")
    finally:
        for name in names.values():
            store.revoke(name)
    assert not wrong, "\n".join(wrong)
    assert count > 4 * len(list(every_procedure(unchanged, "lab")))
    assert unchanged.info().wamp_session == before.wamp_session
    assert unchanged.machine().status.name == "machine"
