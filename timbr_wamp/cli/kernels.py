"""Commands about kernels: list, start, stop, restart, interrupt, run code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import (
    connect_options,
    connected,
    connecting,
    console,
    echo,
    file_text,
    json_option,
    note,
    print_json,
    settings_from,
)
from timbr_wamp.cli.words import TextCommand
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
@click.option("--startup", metavar="FILE", help="A Python file that runs after each (re)start.")
@click.option("--cwd", metavar="FOLDER", help="The working folder; default: the host's.")
@click.option("--host", metavar="NAME", help="The host that starts it, if there are several.")
@json_option
@connecting
def start(
    client: Client, name: str | None, startup: str | None, cwd: str | None, host: str | None, as_json: bool
) -> None:
    """Start a kernel and its bridge; return when the kernel is on the router.

    When its startup file fails, the kernel runs, and the exit status is 1.
    """
    started = client.start_kernel(name=name, startup=startup, cwd=cwd, host=host)
    if as_json:
        print_json(started.info())
        return
    echo(started.id)


@kernel.command()
@click.argument("kernel")
@connect_options
def stop(kernel: str, url: str | None, realm: str | None, connect_timeout_s: float | None) -> None:
    """End a kernel and its bridge. Without a router, one of this computer is found by its runtime file."""
    from timbr_wamp.errors import NoRouter, NotConnected

    settings = settings_from(url=url, realm=realm)
    try:
        with connected(settings, connect_timeout_s, realm) as client:
            chosen = client.kernel(kernel)
            chosen.shutdown()
            ended = chosen.id
    except (NoRouter, NotConnected):
        from timbr_wamp.components.local_kernels import local_kernels, stop_local_kernel

        if settings.url is not None or realm is not None or not local_kernels(settings.runtime_dir):
            raise
        ended = stop_local_kernel(settings.runtime_dir, kernel).kernel_id
    note(f"ended kernel {ended}")


@kernel.command()
@click.argument("kernel")
@json_option
@connecting
def restart(client: Client, kernel: str, as_json: bool) -> None:
    """Restart a kernel's process. It keeps its id and runs its startup file again."""
    from timbr_wamp.faces.kernels import restart_text

    chosen = client.kernel(kernel)
    before = chosen.info()
    info = chosen.restart()
    if as_json:
        print_json(info)
        return
    note(restart_text(before, info))


@kernel.command()
@click.argument("kernel")
@connecting
def interrupt(client: Client, kernel: str) -> None:
    """Interrupt the running cell of a kernel, as Ctrl-C in it would."""
    client.kernel(kernel).interrupt()


@click.command("exec", cls=TextCommand)
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
    except KeyboardInterrupt:  # the call is cancelled, which interrupts its own cell
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
