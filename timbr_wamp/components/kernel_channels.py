"""A kernel's Jupyter channels: requests, their replies, its output and its heartbeat.

The only module that knows jupyter_client; from it come addresses, signatures and messages. Sockets are
our own, as its client objects drain iopub until it is silent (`wait_for_ready`), which on a chatty kernel
is never. One link is one incarnation of a kernel: after a restart of ours a new link is made, so that
nothing queued for the old process reaches the new one. Formats: Jupyter messaging protocol 5.4,
https://jupyter-client.readthedocs.io/en/stable/messaging.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous import AsyncKernelClient

from timbr_wamp.components.heartbeat import watch_heartbeat
from timbr_wamp.contract import IopubMessage
from timbr_wamp.errors import CallTimeout, KernelDead, NoConnectionFile

logger = logging.getLogger(__name__)

Message = dict[str, Any]

#: A question that a living kernel answers at once has this long.
SHORT_S = 10.0
#: After a reply its output follows on another socket; so long it may take to be complete.
OUTPUT_TAIL_S = 10.0
#: What cannot be handed to the socket within this time has nobody at its other end.
SEND_S = 2.0
#: While requests wait, the kernel is asked this often who it is: a restart behind our back ends them.
PROBE_S = 5.0
#: iopub messages that wait for us; above, ZeroMQ drops.
IOPUB_HWM = 10_000
#: After so many messages in one go other tasks get a turn.
TURN_MESSAGES = 50


@dataclass(slots=True, eq=False)
class _Request:
    """A request under way."""

    what: str
    reply: asyncio.Future[Message]
    #: Set when the kernel says that it is done with it, after its last output.
    done: asyncio.Event = field(default_factory=asyncio.Event)
    on_output: Callable[[IopubMessage], None] | None = None


class KernelChannels:
    """One incarnation of a kernel, by its connection file. The loop's own thread only.

    Args:
        kernel_id: for errors and logs.
        on_iopub: gets every message of the kernel's output, in order.
        on_state: called when `busy`, `silent` or `incarnation` changed.
        pace: awaited after each message of output; blocks while those who take it cannot keep up.
    """

    def __init__(
        self,
        connection_file: Path,
        *,
        kernel_id: str,
        on_iopub: Callable[[IopubMessage], None],
        on_state: Callable[[], None],
        pace: Callable[[], Awaitable[None]],
    ) -> None:
        self._file, self._kernel_id = connection_file, kernel_id
        self._on_iopub, self._on_state, self._pace = on_iopub, on_state, pace
        #: Content of the kernel's ``kernel_info_reply``; empty before `open`.
        self.info: Message = {}
        #: A cell runs on the main shell.
        self.busy = False
        #: No heartbeat for `SILENT_S`.
        self.silent = False
        #: Counts the processes seen behind the connection file, from 1.
        self.incarnation = 0
        #: The subshell of our own, for questions that must not wait for a cell; None when there are none.
        self.subshell_id: str | None = None
        self._kernel_session: str | None = None
        self._cell: str | None = None
        self._requests: dict[str, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead: str | None = None
        self._iopub_heard = asyncio.Event()
        self._context = zmq.asyncio.Context()

    async def open(self, timeout_s: float, *, old_subshell: str | None = None) -> None:
        """Connect and shake hands: return when the kernel answered and its output is heard.

        ``old_subshell`` is one that an earlier bridge left behind; it is ended.

        Raises:
            NoConnectionFile: it is not there or cannot be read.
            CallTimeout: no answer in ``timeout_s``.
        """
        self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                await self._shake_hands()
                await self._hear_output()
                await self._open_subshell(old_subshell)
        except TimeoutError:
            raise CallTimeout(f"kernel {self._kernel_id}", timeout_s) from None

    async def close(self) -> None:
        """Let go of the kernel, which lives on; end the subshell of our own. Idempotent, bounded."""
        if self.subshell_id is not None and self._dead is None:
            subshell_id, self.subshell_id = self.subshell_id, None
            with contextlib.suppress(CallTimeout, KernelDead):
                await self._ask("delete_subshell_request", {"subshell_id": subshell_id}, control=True, timeout_s=1.0)
        self.fail("the bridge let go of it")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def fail(self, reason: str) -> None:
        """End every request under way, and each later one, with `KernelDead`."""
        self._dead = reason
        self.fail_requests(reason)

    def fail_requests(self, reason: str) -> None:
        """End every request under way with `KernelDead`; later ones are sent."""
        for request in self._requests.values():
            if not request.reply.done():
                request.reply.set_exception(KernelDead(self._kernel_id, reason))
                request.reply.exception()  # seen: whoever gave up waiting must not make the loop complain
            request.done.set()

    # --- what is asked of a kernel -----------------------------------------------------------

    async def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        timeout_s: float | None = None,
        on_output: Callable[[IopubMessage], None] | None = None,
    ) -> Message:
        """Run code; return the reply's content after the last of its output was given to ``on_output``.

        Raises:
            CallTimeout: not done in ``timeout_s``; the cell, if it is the one that runs, was interrupted.
            KernelDead: the kernel's process ended first.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history and not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,  # what waits behind a failing cell may be another caller's
        }
        message = self._message("execute_request", content)
        request = self._expect(message, "execute", on_output)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(self._shell, message)
                reply = await request.reply
        except TimeoutError:
            if self._cell == message["header"]["msg_id"]:
                with contextlib.suppress(CallTimeout, KernelDead):
                    await self.interrupt()
            raise CallTimeout("execute", timeout_s or 0.0) from None
        else:
            with contextlib.suppress(TimeoutError):  # its "idle" was dropped on the way: the reply counts
                await asyncio.wait_for(request.done.wait(), OUTPUT_TAIL_S)
            return reply
        finally:
            self._requests.pop(message["header"]["msg_id"], None)

    async def complete(self, code: str, cursor_pos: int | None = None) -> Message:
        """Return completions, also while a cell runs."""
        content = {"code": code, "cursor_pos": len(code) if cursor_pos is None else cursor_pos}
        return await self._ask("complete_request", content, subshell=True)

    async def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> Message:
        """Return documentation of the name at the cursor, also while a cell runs."""
        position = len(code) if cursor_pos is None else cursor_pos
        content = {"code": code, "cursor_pos": position, "detail_level": detail_level}
        return await self._ask("inspect_request", content, subshell=True)

    async def is_complete(self, code: str) -> Message:
        """Tell whether the code is a whole cell."""
        return await self._ask("is_complete_request", {"code": code}, subshell=True)

    async def evaluate(self, expression: str) -> str | None:
        """Return the ``repr`` of an expression, in the subshell of our own; None without one or when it raises.

        Only short expressions of ours: what runs in a subshell cannot be interrupted.
        """
        if self.subshell_id is None:
            return None
        content = {"code": "", "silent": True, "user_expressions": {"it": expression}, "allow_stdin": False}
        reply = await self._ask("execute_request", content, subshell=True)
        result = reply.get("user_expressions", {}).get("it", {})
        return result["data"]["text/plain"] if result.get("status") == "ok" else None

    async def interrupt(self) -> None:
        """Interrupt the running cell. ipykernel sends itself and its cells' processes a SIGINT."""
        await self._ask("interrupt_request", {}, control=True)

    async def shutdown(self, timeout_s: float = 2.0) -> None:
        """Ask the kernel to end; the caller watches its process."""
        await self._ask("shutdown_request", {"restart": False}, control=True, timeout_s=timeout_s)

    # --- requests and replies ----------------------------------------------------------------

    async def _ask(
        self,
        kind: str,
        content: Message,
        *,
        control: bool = False,
        subshell: bool = False,
        timeout_s: float = SHORT_S,
    ) -> Message:
        message = self._message(kind, content)
        if subshell and self.subshell_id is not None:
            message["header"]["subshell_id"] = self.subshell_id
        what = kind.removesuffix("_request")
        request = self._expect(message, what, None)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(self._control if control else self._shell, message)
                return await request.reply
        except TimeoutError:
            raise CallTimeout(what, timeout_s) from None
        finally:
            self._requests.pop(message["header"]["msg_id"], None)

    def _message(self, kind: str, content: Message) -> Message:
        message: Message = self._session.msg(kind, content)
        return message

    def _expect(self, message: Message, what: str, on_output: Callable[[IopubMessage], None] | None) -> _Request:
        if self._dead is not None:
            raise KernelDead(self._kernel_id, self._dead)
        request = _Request(what, asyncio.get_running_loop().create_future(), on_output=on_output)
        self._requests[message["header"]["msg_id"]] = request
        return request

    async def _send(self, socket: zmq.asyncio.Socket, message: Message) -> None:
        # By the asyncio socket itself: `Session.send` uses a shadow of it, and a shadow's send can
        # swallow the one signal that tells the loop of a message to read.
        try:
            await asyncio.wait_for(socket.send_multipart(self._session.serialize(message)), SEND_S)
        except TimeoutError:
            raise KernelDead(self._kernel_id, "it takes no more requests") from None

    # --- opening -----------------------------------------------------------------------------

    def _connect(self) -> None:
        client = AsyncKernelClient(context=self._context)
        try:
            client.load_connection_file(str(self._file))
        except OSError as error:
            raise NoConnectionFile(str(self._file), error.strerror or "cannot be read") from None
        except (ValueError, KeyError, TypeError):
            raise NoConnectionFile(str(self._file), "is no Jupyter connection file") from None
        self._client, self._session = client, client.session
        self._shell: zmq.asyncio.Socket = client.connect_shell()
        self._control: zmq.asyncio.Socket = client.connect_control()
        self._context.rcvhwm = IOPUB_HWM  # for sockets made from here on
        iopub: zmq.asyncio.Socket = client.connect_iopub()
        for socket in (self._shell, self._control, iopub):
            socket.linger = 0
        self._start(self._read(self._shell, self._on_reply))
        self._start(self._read(self._control, self._on_reply))
        self._start(self._read(iopub, self._on_output, self._pace))
        self._start(watch_heartbeat(client.connect_hb, self._set_silent))
        self._start(self._probe())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

    async def _shake_hands(self) -> None:
        """Ask on both channels: control answers while a cell runs, shell shows that none does."""
        on_shell = self._message("kernel_info_request", {})
        first = self._expect(on_shell, "kernel_info", None)
        await self._send(self._shell, on_shell)
        while not self.info:
            with contextlib.suppress(CallTimeout):
                self.info = await self._ask("kernel_info_request", {}, control=True, timeout_s=1.0)
        major = int(str(self.info.get("protocol_version", "5")).split(".")[0])
        if major < 5:
            self._session.adapt_version = major
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(first.reply), 0.3)
        if not first.reply.done():
            self.busy, self._cell = True, ""  # somebody's cell, begun before we came
        first.reply.add_done_callback(lambda _: self._shell_answered(on_shell))

    def _shell_answered(self, question: Message) -> None:
        self._requests.pop(question["header"]["msg_id"], None)
        if self._cell == "":
            self._set_cell(None)

    async def _hear_output(self) -> None:
        """Wait until iopub is connected. Each question to control makes the kernel publish its status."""
        while not self._iopub_heard.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._iopub_heard.wait(), 0.1)
                return
            with contextlib.suppress(CallTimeout):
                await self._ask("kernel_info_request", {}, control=True, timeout_s=1.0)

    async def _open_subshell(self, old: str | None = None) -> None:
        if "kernel subshells" not in self.info.get("supported_features", ()):
            return
        if old is not None:
            await self._ask("delete_subshell_request", {"subshell_id": old}, control=True)
        reply = await self._ask("create_subshell_request", {}, control=True)
        self.subshell_id = reply.get("subshell_id")

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
                logger.warning("kernel %s: a message that is not signed by it, or not well formed", self._kernel_id)
                continue
            self._check_incarnation(message)
            handle(message)
            if pace is not None:
                await pace()
            turn += 1
            if turn % TURN_MESSAGES == 0:
                await asyncio.sleep(0)  # a socket with messages ready never lets go by itself

    def _on_reply(self, message: Message) -> None:
        request = self._requests.get(message["parent_header"].get("msg_id", ""))
        if request is not None and not request.reply.done():
            request.reply.set_result(message["content"])

    def _on_output(self, message: Message) -> None:
        self._iopub_heard.set()
        kind, content, parent = message["header"]["msg_type"], message["content"], message["parent_header"]
        parent_id = parent.get("msg_id")
        request = self._requests.get(parent_id) if parent_id else None
        output = IopubMessage(
            msg_type=kind,
            content=content,
            metadata=message["metadata"],
            buffers=[bytes(buffer) for buffer in message["buffers"]],
            parent_id=parent_id,
        )
        self._on_iopub(output)
        if request is not None and request.on_output is not None and not request.done.is_set():
            self._give(request, output)
        if kind == "status":
            self._on_status(content.get("execution_state"), parent, request)

    def _give(self, request: _Request, output: IopubMessage) -> None:
        assert request.on_output is not None
        try:
            request.on_output(output)
        except Exception as error:  # a callback; its caller is gone, or cannot take it: the cell goes on
            logger.warning("kernel %s: output of a cell was not given out: %s", self._kernel_id, error)
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

    def _check_incarnation(self, message: Message) -> None:
        """Notice another process behind the same connection file: each has a session id of its own."""
        session = message["header"].get("session")
        if session == self._kernel_session:
            return
        again, self._kernel_session = self._kernel_session is not None, session
        self.incarnation += 1
        if again:
            logger.info("kernel %s was restarted by somebody else", self._kernel_id)
            self.fail_requests("it was restarted")
            self.subshell_id = None
            self._set_cell(None)
            self._on_state()
            self._start(self._open_subshell())

    def _set_silent(self, silent: bool) -> None:
        if silent != self.silent:
            self.silent = silent
            self._on_state()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            if self._requests:
                with contextlib.suppress(CallTimeout, KernelDead):
                    await self._ask("kernel_info_request", {}, control=True, timeout_s=PROBE_S)
