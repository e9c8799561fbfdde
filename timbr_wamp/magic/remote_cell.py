"""Run a cell on a remote kernel and show its output in the local cell.

Inside ipykernel the remote messages are forwarded with the local cell as parent, so frontends and saved
notebooks treat them as local output. In a terminal they are shown by IPython's display functions.
Widgets are shown as text.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from timbr_wamp.contract import ExecuteReply, IopubMessage
from timbr_wamp.errors import CallTimeout, TimbrError
from timbr_wamp.magic.failures import cell_error, shortened
from timbr_wamp.tables import terminal_text

if TYPE_CHECKING:
    from timbr_wamp.client import RemoteKernel

#: Timeout for the remote cell to end after an interrupt.
INTERRUPT_TIMEOUT_S = 10.0

#: Message types that are shown. ``error`` is not, because the reply contains the error, which is raised.
SHOWN = frozenset({"stream", "display_data", "update_display_data", "execute_result", "clear_output"})
_WIDGET = "application/vnd.jupyter.widget-view+json"


class Output(Protocol):
    """Shows a remote cell's output. Called in the client's loop thread; must not block."""

    def __call__(self, message: IopubMessage) -> None:
        """Show one message."""


def run_cell(shell: Any, kernel: RemoteKernel, code: str, timeout_s: float | None = None) -> None:
    """Run ``code`` on ``kernel``; return when it has succeeded. Only from the shell's main thread.

    A local interrupt interrupts the remote cell and waits for its end; a second one ends the waiting.

    Raises:
        RemoteCellError: the cell failed; the class has the name of the remote error's class.
        KeyboardInterrupt: interrupted twice.
        CallTimeout: it did not finish within ``timeout_s``, or did not end in time after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # so that earlier output appears first
    run = _Run(kernel, code, timeout_s, output_for(shell))
    try:
        reply = run.wait_interruptibly()
    finally:
        run.mute()
    if reply.status != "ok":
        raise cell_error(reply)


class _Run:
    """An execution in a thread that waits for the reply, so that the main thread can be interrupted."""

    def __init__(self, kernel: RemoteKernel, code: str, timeout_s: float | None, output: Output) -> None:
        self._kernel, self._code, self._timeout_s, self._output = kernel, code, timeout_s, output
        self._muted = False
        self._ended = threading.Event()
        self._reply: ExecuteReply | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._execute, name="timbr_wamp remote cell", daemon=True).start()

    def wait_interruptibly(self) -> ExecuteReply:
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self._interrupt()
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise CallTimeout(f"the interrupted cell on {self._kernel.name}", INTERRUPT_TIMEOUT_S)
        return self._reply

    def mute(self) -> None:
        """Show no further output, because the local cell has ended."""
        self._muted = True

    def _interrupt(self) -> None:
        # also in a thread, so that a second KeyboardInterrupt ends the waiting at once
        threading.Thread(target=self._send_interrupt, name="timbr_wamp interrupt", daemon=True).start()
        try:
            self._ended.wait(INTERRUPT_TIMEOUT_S)
        except KeyboardInterrupt:
            raise shortened(KeyboardInterrupt("no longer waiting; the remote cell may still be running")) from None

    def _send_interrupt(self) -> None:
        try:
            self._kernel.interrupt()
        except TimbrError as error:
            self._error = error
            self._ended.set()

    def _execute(self) -> None:
        try:
            self._reply = self._kernel.run(self._code, on_output=self._show, timeout_s=self._timeout_s)
        except BaseException as error:  # raised again in the main thread
            self._error = error
        finally:
            self._ended.set()

    def _show(self, message: IopubMessage) -> None:
        if not self._muted and message.msg_type in SHOWN:
            self._output(_without_widget(message))


def output_for(shell: Any) -> Output:
    """Return the output of this shell's current cell."""
    if getattr(shell, "kernel", None) is not None:
        return KernelOutput(shell)
    return TerminalOutput()


class KernelOutput:
    """Forwards messages to this kernel's frontends as output of the current cell."""

    def __init__(self, shell: Any) -> None:
        self._kernel = shell.kernel
        self._parent = shell.get_parent()
        #: While a cell runs, ``execution_count`` is already that of the next one.
        self._number = shell.displayhook.prompt_count

    def __call__(self, message: IopubMessage) -> None:
        """Forward one message. Any thread: ipykernel's iopub socket passes it to its own thread."""
        content = dict(message.content)
        if message.msg_type == "execute_result":
            content["execution_count"] = self._number
        self._kernel.session.send(
            self._kernel.iopub_socket,
            message.msg_type,
            content,
            parent=self._parent,
            metadata=message.metadata,
            buffers=message.buffers or None,
        )


class TerminalOutput:
    """Shows messages with IPython's display functions."""

    def __call__(self, message: IopubMessage) -> None:
        """Show one message."""
        from IPython.display import clear_output, display

        content = message.content
        if message.msg_type == "stream":
            stream = sys.stderr if content.get("name") == "stderr" else sys.stdout
            stream.write(terminal_text(content.get("text", ""), styles=True))
            stream.flush()
        elif message.msg_type == "clear_output":
            clear_output(wait=bool(content.get("wait")))
        else:
            data = {kind: _for_terminal(kind, value) for kind, value in content.get("data", {}).items()}
            display(data, raw=True, metadata=content.get("metadata", {}))


def _for_terminal(kind: str, value: Any) -> Any:
    """Return a representation; of text, without what a terminal would obey."""
    return terminal_text(value, styles=True) if kind == "text/plain" and isinstance(value, str) else value


def _without_widget(message: IopubMessage) -> IopubMessage:
    data = message.content.get("data")
    if not isinstance(data, dict) or _WIDGET not in data:
        return message
    shown = {kind: value for kind, value in data.items() if kind != _WIDGET}
    content = {**message.content, "data": shown}
    return IopubMessage(msg_type=message.msg_type, content=content, metadata=message.metadata)
