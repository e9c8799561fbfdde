"""`KernelChannels`: a kernel's Jupyter channels, with requests, replies, output and heartbeat.

The only module that uses jupyter_client, for addresses, signatures and messages. It reads the sockets
itself, because `wait_for_ready` of jupyter_client's client drains iopub until it is silent, which never
happens with a kernel that prints all the time. After the bridge restarted a kernel it creates new
channels, so that nothing queued for the old process reaches the new one. Formats: Jupyter messaging
protocol 5.4, https://jupyter-client.readthedocs.io/en/stable/messaging.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import zmq
import zmq.asyncio
from jupyter_client.asynchronous import AsyncKernelClient

from timbr_wamp.client.session import CANCELLED_BY_CALLER
from timbr_wamp.client.tasks import Tasks
from timbr_wamp.components.heartbeat import watch_heartbeat
from timbr_wamp.contract import IopubMessage
from timbr_wamp.errors import CallTimeout, KernelDead, NoConnectionFile
from timbr_wamp.values import json_safe

logger = logging.getLogger(__name__)

Message = dict[str, Any]

#: Timeout of requests that a kernel answers at once.
REQUEST_TIMEOUT_S = 10.0
#: Timeout for the rest of a cell's output after the reply, which arrives on another socket.
OUTPUT_TAIL_S = 10.0
#: Timeout for sending. A socket that accepts no message for this long has no peer.
SEND_TIMEOUT_S = 2.0
#: Interval for probing the kernel while requests are open, to notice that another program restarted it.
PROBE_INTERVAL_S = 5.0
#: High-water mark of the iopub socket; beyond it ZeroMQ drops messages.
IOPUB_HWM = 10_000
#: Most messages that are handled before other tasks of the loop run.
TURN_MESSAGES = 50


@dataclass(slots=True, eq=False)
class _Request:
    """A request in progress."""

    what: str
    reply: asyncio.Future[Message]
    #: Set when the kernel reports "idle" for the request, after its last output.
    done: asyncio.Event = field(default_factory=asyncio.Event)
    on_output: Callable[[IopubMessage], None] | None = None


class KernelChannels:
    """The channels of a kernel, by its connection file. The loop's own thread only.

    Args:
        kernel_id: for errors and logs.
        on_iopub: called with every output message, in order.
        on_state: called when `busy` or `silent` changed, or another program restarted the kernel.
        pace: awaited after each output message; it waits while the receivers cannot keep up.
        on_error: called with an unexpected error, after which these channels no longer work.
        heartbeat: watch the kernel's heartbeat, for a kernel whose process is not watched.
    """

    def __init__(
        self,
        connection_file: Path,
        *,
        kernel_id: str,
        on_iopub: Callable[[IopubMessage], None],
        on_state: Callable[[], None],
        pace: Callable[[], Awaitable[None]],
        on_error: Callable[[Exception], None],
        heartbeat: bool,
    ) -> None:
        self._file, self._kernel_id, self._with_heartbeat = connection_file, kernel_id, heartbeat
        self._on_iopub, self._on_state, self._pace = on_iopub, on_state, pace
        #: Content of the kernel's ``kernel_info_reply``; empty before `open`.
        self.info: Message = {}
        #: A cell is running on the main shell.
        self.busy = False
        #: No heartbeat for `SILENT_S`; False where it is not watched.
        self.silent = False
        #: Id of the bridge's subshell, for requests that must not wait for a cell; None without subshells.
        self.subshell_id: str | None = None
        self._kernel_session: str | None = None
        self._cell: str | None = None
        self._requests: dict[str, _Request] = {}
        self._requested = asyncio.Event()
        self._tasks = Tasks(on_error)
        self._dead: str | None = None
        self._iopub_connected = asyncio.Event()
        self._context = zmq.asyncio.Context()

    async def open(self, timeout_s: float, *, old_subshell: str | None = None) -> None:
        """Connect; return when the kernel has answered and its output is received.

        ``old_subshell`` is the id of a subshell that an earlier bridge left; it is deleted.

        Raises:
            NoConnectionFile: the file is missing or cannot be read.
            CallTimeout: no answer within ``timeout_s``.
        """
        self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                await self._handshake()
                await self._wait_for_iopub()
                await self._open_subshell(old_subshell)
        except TimeoutError:
            raise CallTimeout(f"kernel {self._kernel_id}", timeout_s) from None

    async def close(self) -> None:
        """Delete the subshell and disconnect; the kernel keeps running. Idempotent, bounded in time."""
        if self.subshell_id is not None and self._dead is None:
            subshell_id, self.subshell_id = self.subshell_id, None
            with contextlib.suppress(CallTimeout, KernelDead):
                content = {"subshell_id": subshell_id}
                await self._request("delete_subshell_request", content, control=True, timeout_s=1.0)
        self.fail("the bridge disconnected")
        await self._tasks.close()
        self._context.destroy(linger=0)

    def fail(self, reason: str) -> None:
        """Fail all requests in progress and all later ones with `KernelDead`."""
        self._dead = reason
        self.fail_requests(reason)

    def fail_requests(self, reason: str) -> None:
        """Fail all requests in progress with `KernelDead`; later ones are sent."""
        for request in self._requests.values():
            if not request.reply.done():
                request.reply.set_exception(KernelDead(self._kernel_id, reason))
                request.reply.exception()  # mark as retrieved, in case nobody awaits it
            request.done.set()

    # --- requests -----------------------------------------------------------

    async def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        timeout_s: float | None = None,
        on_output: Callable[[IopubMessage], None] | None = None,
    ) -> Message:
        """Run code; return the reply's content, after ``on_output`` got all of its output.

        If the caller cancels it while this very cell runs, the cell is interrupted. If the caller has gone, it runs on.

        Raises:
            CallTimeout: it did not finish within ``timeout_s``; if the cell was running, it was interrupted.
            KernelDead: the kernel's process ended first.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history and not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,  # the cells queued behind a failing cell may be another caller's
        }
        message = self._message("execute_request", content)
        request = self._register_request(message, "execute", on_output)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(self._shell, message)
                reply = await request.reply
        except TimeoutError:
            if self._cell == message["header"]["msg_id"]:
                await self._interrupt_quietly()
            raise CallTimeout(f"execute on kernel {self._kernel_id}", timeout_s or 0.0) from None
        except asyncio.CancelledError as error:
            if CANCELLED_BY_CALLER in error.args and self._cell == message["header"]["msg_id"]:
                self._tasks.start(self._interrupt_quietly(), "interrupt")
            raise
        else:
            with contextlib.suppress(TimeoutError):  # "idle" was dropped, but there is a reply
                await asyncio.wait_for(request.done.wait(), OUTPUT_TAIL_S)
            return reply
        finally:
            self._requests.pop(message["header"]["msg_id"], None)

    async def complete(self, code: str, cursor_pos: int | None = None) -> Message:
        """Return completions, even while a cell runs."""
        content = {"code": code, "cursor_pos": _position(code, cursor_pos)}
        return await self._request("complete_request", content, subshell=True)

    async def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> Message:
        """Return the documentation of the name at the cursor, even while a cell runs."""
        content = {"code": code, "cursor_pos": _position(code, cursor_pos), "detail_level": detail_level}
        return await self._request("inspect_request", content, subshell=True)

    async def is_complete(self, code: str) -> Message:
        """Return whether the code is a complete cell."""
        return await self._request("is_complete_request", {"code": code}, subshell=True)

    async def evaluate(self, expression: str) -> str | None:
        """Return the ``repr`` of an expression, evaluated in the bridge's subshell.

        None without a subshell, or when it raises. For short expressions only, because code in a
        subshell cannot be interrupted.
        """
        if self.subshell_id is None:
            return None
        content = {"code": "", "silent": True, "user_expressions": {"it": expression}, "allow_stdin": False}
        reply = await self._request("execute_request", content, subshell=True)
        result = reply.get("user_expressions", {}).get("it", {})
        return result["data"]["text/plain"] if result.get("status") == "ok" else None

    async def interrupt(self) -> None:
        """Interrupt the running cell. ipykernel sends SIGINT to itself and to the child processes of its cells."""
        await self._request("interrupt_request", {}, control=True)

    async def _interrupt_quietly(self) -> None:
        with contextlib.suppress(CallTimeout, KernelDead):
            await self.interrupt()

    async def shutdown(self, timeout_s: float = 2.0) -> None:
        """Ask the kernel to end; the caller watches its process."""
        await self._request("shutdown_request", {"restart": False}, control=True, timeout_s=timeout_s)

    # --- sending and replies ----------------------------------------------------------------

    async def _request(
        self,
        kind: str,
        content: Message,
        *,
        control: bool = False,
        subshell: bool = False,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Message:
        message = self._message(kind, content)
        if subshell and self.subshell_id is not None:
            message["header"]["subshell_id"] = self.subshell_id
        what = kind.removesuffix("_request")
        request = self._register_request(message, what, None)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(self._control if control else self._shell, message)
                return await request.reply
        except TimeoutError:
            raise CallTimeout(f"{what} on kernel {self._kernel_id}", timeout_s) from None
        finally:
            self._requests.pop(message["header"]["msg_id"], None)

    def _message(self, kind: str, content: Message) -> Message:
        message: Message = self._session.msg(kind, content)
        return message

    def _register_request(
        self, message: Message, what: str, on_output: Callable[[IopubMessage], None] | None
    ) -> _Request:
        if self._dead is not None:
            raise KernelDead(self._kernel_id, self._dead)
        request = _Request(what, asyncio.get_running_loop().create_future(), on_output=on_output)
        self._requests[message["header"]["msg_id"]] = request
        self._requested.set()
        return request

    async def _send(self, socket: zmq.asyncio.Socket, message: Message) -> None:
        # Sent by the asyncio socket itself: `Session.send` uses a shadow socket, whose send can consume
        # the edge-triggered event that tells the loop of a message to read.
        try:
            await asyncio.wait_for(socket.send_multipart(self._session.serialize(message)), SEND_TIMEOUT_S)
        except TimeoutError:
            raise KernelDead(self._kernel_id, "it accepts no requests") from None

    # --- opening -----------------------------------------------------------------------------

    def _connect(self) -> None:
        client = AsyncKernelClient(context=self._context)
        try:
            client.load_connection_file(str(self._file))
        except OSError as error:
            raise NoConnectionFile(str(self._file), error.strerror or "cannot be read") from None
        except (ValueError, KeyError, TypeError):
            raise NoConnectionFile(str(self._file), "is not a Jupyter connection file") from None
        self._client, self._session = client, client.session
        self._shell: zmq.asyncio.Socket = client.connect_shell()
        self._control: zmq.asyncio.Socket = client.connect_control()
        self._context.rcvhwm = IOPUB_HWM  # for sockets created from here on
        iopub: zmq.asyncio.Socket = client.connect_iopub()
        for socket in (self._shell, self._control, iopub):
            socket.linger = 0
        self._tasks.start(self._read(self._shell, self._on_reply), "shell")
        self._tasks.start(self._read(self._control, self._on_reply), "control")
        self._tasks.start(self._read(iopub, self._on_output, self._pace), "iopub")
        if self._with_heartbeat:
            self._tasks.start(watch_heartbeat(client.connect_hb, self._set_silent), "heartbeat")
        self._tasks.start(self._probe(), "probe")

    async def _handshake(self) -> None:
        """Send kernel_info on both channels: control answers even while a cell runs, shell only when none does."""
        on_shell = self._message("kernel_info_request", {})
        first = self._register_request(on_shell, "kernel_info", None)
        await self._send(self._shell, on_shell)
        while not self.info:
            with contextlib.suppress(CallTimeout):
                self.info = await self._request("kernel_info_request", {}, control=True, timeout_s=1.0)
        major = int(str(self.info.get("protocol_version", "5")).split(".")[0])
        if major < 5:
            self._session.adapt_version = major
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(first.reply), 0.3)
        if not first.reply.done():
            self.busy, self._cell = True, ""  # a cell that was started before the bridge connected
        first.reply.add_done_callback(lambda _: self._shell_answered(on_shell))

    def _shell_answered(self, question: Message) -> None:
        self._requests.pop(question["header"]["msg_id"], None)
        if self._cell == "":
            self._set_cell(None)

    async def _wait_for_iopub(self) -> None:
        """Wait until iopub is connected. Each request on control makes the kernel publish its status."""
        while not self._iopub_connected.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._iopub_connected.wait(), 0.1)
                return
            with contextlib.suppress(CallTimeout):
                await self._request("kernel_info_request", {}, control=True, timeout_s=1.0)

    async def _open_subshell(self, old: str | None = None) -> None:
        if "kernel subshells" not in self.info.get("supported_features", ()):
            return
        if old is not None:
            await self._request("delete_subshell_request", {"subshell_id": old}, control=True)
        reply = await self._request("create_subshell_request", {}, control=True)
        self.subshell_id = reply.get("subshell_id")

    async def _open_subshell_again(self) -> None:
        try:
            await self._open_subshell()
        except (CallTimeout, KernelDead) as error:
            logger.warning("kernel %s: it has no subshell: %s", self._kernel_id, error)

    # --- reading -----------------------------------------------------------------------------

    async def _read(
        self,
        socket: zmq.asyncio.Socket,
        handle: Callable[[Message], None],
        pace: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        turn = 0
        while True:
            frames = await socket.recv_multipart()
            try:
                _, parts = self._session.feed_identities(frames)
                message = self._session.deserialize(parts)
            except (ValueError, TypeError, KeyError):
                logger.warning(
                    "kernel %s: ignored a message that is malformed or has a wrong signature", self._kernel_id
                )
                continue
            self._check_session(message)
            handle(message)
            if pace is not None:
                await pace()
            turn += 1
            if turn % TURN_MESSAGES == 0:
                await asyncio.sleep(0)  # receiving does not yield to other tasks while messages are ready

    def _on_reply(self, message: Message) -> None:
        request = self._requests.get(message["parent_header"].get("msg_id", ""))
        if request is not None and not request.reply.done():
            request.reply.set_result(cast(Message, json_safe(message["content"])))

    def _on_output(self, message: Message) -> None:
        self._iopub_connected.set()
        kind, content, parent = message["header"]["msg_type"], message["content"], message["parent_header"]
        parent_id = parent.get("msg_id")
        request = self._requests.get(parent_id) if parent_id else None
        output = IopubMessage(
            msg_type=kind,
            content=cast(Message, json_safe(content)),
            metadata=cast(Message, json_safe(message["metadata"])),
            buffers=[bytes(buffer) for buffer in message["buffers"]],
            parent_id=parent_id,
        )
        self._on_iopub(output)
        if request is not None and request.on_output is not None and not request.done.is_set():
            self._pass_on(request, output)
        if kind == "status":
            self._on_status(content.get("execution_state"), parent, request)

    def _pass_on(self, request: _Request, output: IopubMessage) -> None:
        assert request.on_output is not None
        try:
            request.on_output(output)
        except Exception as error:  # the caller is gone, or the message is too large; the cell keeps running
            logger.warning("kernel %s: could not pass on a cell's output: %s", self._kernel_id, error)
            request.on_output = None

    def _on_status(self, state: str | None, parent: Message, request: _Request | None) -> None:
        if parent.get("msg_type") != "execute_request" or "subshell_id" in parent:
            return
        parent_id = parent["msg_id"]
        if state == "busy":
            self._set_cell(parent_id)
        elif state == "idle":
            if self._cell in (parent_id, ""):
                self._set_cell(None)
            if request is not None:
                request.done.set()

    def _set_cell(self, parent_id: str | None) -> None:
        self._cell = parent_id
        if self.busy != (parent_id is not None):
            self.busy = parent_id is not None
            self._on_state()

    def _check_session(self, message: Message) -> None:
        """Detect that another process uses the connection file: each process has its own session id."""
        session = message["header"].get("session")
        if session == self._kernel_session:
            return
        again, self._kernel_session = self._kernel_session is not None, session
        if again:
            logger.info("kernel %s was restarted by another program", self._kernel_id)
            self.fail_requests("it was restarted")
            self.subshell_id = None
            self._set_cell(None)
            self._on_state()
            self._tasks.start(self._open_subshell_again(), "subshell")

    def _set_silent(self, silent: bool) -> None:
        if silent != self.silent:
            self.silent = silent
            self._on_state()

    async def _probe(self) -> None:
        while True:
            await self._requested.wait()
            await asyncio.sleep(PROBE_INTERVAL_S)
            if not self._requests:
                self._requested.clear()
                continue
            with contextlib.suppress(CallTimeout, KernelDead):
                await self._request("kernel_info_request", {}, control=True, timeout_s=PROBE_INTERVAL_S)


def _position(code: str, cursor_pos: int | None) -> int:
    """Return a position within ``code``, by default its end: kernels do not answer for one outside."""
    return len(code) if cursor_pos is None else min(max(cursor_pos, 0), len(code))
