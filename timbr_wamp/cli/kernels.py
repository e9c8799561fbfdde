"""Commands about kernels: list, start, stop, restart, interrupt, run code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import connecting, console, echo, file_text, json_option, note, print_json
from timbr_wamp.command_line import command_line

if TYPE_CHECKING:
    from timbr_wamp.client import Client
    from timbr_wamp.contract import IopubMessage


@click.command("list")
@json_option
@connecting
def list_kernels(client: Client, as_json: bool) -> None:
    """Print the kernels on the router."""
    found = client.kernels()
    if as_json:
        print_json(list(found))
        return
    if not found:
        note(f"no kernels; start one with: {command_line('kernel', 'start', '--name', 'lab')}")
        return
    from timbr_wamp.cli.tables import rich_table

    console().print(rich_table(found.table()))


@click.group()
def kernel() -> None:
    """List, start, stop, restart and interrupt kernels."""


kernel.add_command(list_kernels, "list")


@kernel.command()
@click.option("--name", help="The kernel's name for people; default: its id.")
@click.option("--startup", metavar="FILE", help="A Python file on the host that runs after each (re)start.")
@click.option("--cwd", metavar="FOLDER", help="The working folder on the host; default: the host's.")
@click.option("--host", metavar="NAME", help="The host that starts it, if there are several.")
@json_option
@connecting
def start(
    client: Client, name: str | None, startup: str | None, cwd: str | None, host: str | None, as_json: bool
) -> None:
    """Start a kernel and its bridge; return when the kernel is on the router."""
    started = client.start_kernel(name=name, startup=_absolute(startup), cwd=_absolute(cwd), host=host)
    if as_json:
        print_json(started.info())
        return
    echo(started.id)


def _absolute(path: str | None) -> str | None:
    """Return an existing local path as an absolute one, because the host has another working folder."""
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


@kernel.command()
@click.argument("kernel")
@connecting
def stop(client: Client, kernel: str) -> None:
    """End a kernel and its bridge."""
    chosen = client.kernel(kernel)
    chosen.shutdown()
    note(f"ended kernel {chosen.id}")


@kernel.command()
@click.argument("kernel")
@json_option
@connecting
def restart(client: Client, kernel: str, as_json: bool) -> None:
    """Restart a kernel's process. It keeps its id and runs its startup file again."""
    info = client.kernel(kernel).restart()
    if as_json:
        print_json(info)
        return
    note(f"restarted kernel {info.kernel_id} as process {info.pid}")


@kernel.command()
@click.argument("kernel")
@connecting
def interrupt(client: Client, kernel: str) -> None:
    """Interrupt the running cell of a kernel, as Ctrl-C in it would."""
    client.kernel(kernel).interrupt()


@click.command("exec")
@click.argument("kernel")
@click.argument("code")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Timeout; default: no limit.")
@json_option
@connecting
@click.pass_context
def execute(ctx: click.Context, client: Client, kernel: str, code: str, timeout_s: float | None, as_json: bool) -> None:
    """Run CODE in a kernel and print its output; `-` reads the code from stdin, `@file.py` from a file.

    The exit status is 1 when the code raises. Ctrl-C interrupts the code.
    """
    ending = click.get_current_context().exit
    chosen = client.kernel(kernel)
    kinds: set[str] = set()

    def on_output(message: IopubMessage) -> None:
        kinds.add(message.msg_type)
        (_print_as_json if as_json else _print_output)(message)

    try:
        reply = chosen.run(_code(code), on_output=on_output, timeout_s=timeout_s)
    except KeyboardInterrupt:
        chosen.interrupt()
        note("timbr-wamp: interrupted")
        ending(130)
    if as_json:
        print_json(reply, line=True)
    elif reply.status == "error" and "error" not in kinds:  # a kernel that could not send the error itself
        note("\n".join(reply.traceback) or f"{reply.ename}: {reply.evalue}")
    if reply.status != "ok":
        ending(1)


def _code(text: str) -> str:
    if text == "-":
        return sys.stdin.buffer.read().decode("utf-8-sig")
    return file_text(text[1:]) if text.startswith("@") else text


def _print_as_json(message: IopubMessage) -> None:
    print_json(message, line=True)


def _print_output(message: IopubMessage) -> None:
    """Print a kernel's output: streams, texts of results, tracebacks on stderr."""
    content = message.content
    # colours are shown on a tty unless NO_COLOR is set (https://no-color.org), and never in a pipe
    color = False if os.environ.get("NO_COLOR") else None
    if message.msg_type == "stream":
        echo(content["text"], nl=False, err=content["name"] == "stderr", styles=True, color=color)
    elif message.msg_type in ("execute_result", "display_data", "update_display_data"):
        echo(content["data"].get("text/plain", f"({', '.join(content['data'])})"), styles=True, color=color)
    elif message.msg_type == "error":
        echo("\n".join(content["traceback"]), err=True, styles=True, color=color)
