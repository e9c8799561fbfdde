"""Generate ``docs/reference/cli.md`` from the commands: ``python -m timbr_wamp.cli.reference``.

A test fails when the page is out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from timbr_wamp.cli.app import main

PAGE = "docs/reference/cli.md"
HEAD = """# The command line

<!-- Generated from timbr_wamp/cli by `python -m timbr_wamp.cli.reference`; do not edit. -->

`timbr-wamp COMMAND --help` shows the same text. The router is taken from `--url`, else `TIMBR_WAMP_URL`, else
`timbr.toml`, else it is the router that runs on this computer. The token is taken from `TIMBR_WAMP_TOKEN`, else
`timbr.toml`, else it is the local router's; it goes only to the URL that it was set for, and is never an
argument, because all users of a computer can see arguments. `KERNEL` is an id, a name or a unique prefix of one; if
it is optional, the default is the only kernel.

Exit status: 0 success; 1 failure, with a sentence on stderr (`--debug`, anywhere among the words, shows the
traceback), also when a disk is full, a file cannot be written or stdout is closed; 2 wrong usage; 3 `machine` and
`run` with `--until-done`: done, but errored messages are unresolved; 130 Ctrl-C. `--json` prints results for
programs; other messages go to stderr. `NO_COLOR` is obeyed. Characters that the encoding of stdout does not have are
printed as escapes.
"""


def cli_reference() -> str:
    """Return the page."""
    sections = [HEAD]
    for words, command in commands(main):
        sections.append(f"## `{words}`\n")
        sections.append(f"    {words} {_usage(command)}\n")
        sections.append(f"{_help(command)}\n")
        if table := _options(command):
            sections.append(f"{table}\n")
    return "\n".join(sections)


def commands(group: click.Group, words: str = "timbr-wamp") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, in alphabetical order."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def _usage(command: click.Command) -> str:
    context = click.Context(command)
    return " ".join(command.collect_usage_pieces(context))


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _options(command: click.Command) -> str:
    rows = []
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        record = parameter.get_help_record(click.Context(command))
        if record is not None:
            names, text = (part.replace("|", "\\|") for part in record)
            rows.append(f"| `{names}` | {text} |")
    return "\n".join(["| option | |", "|---|---|", *rows]) if rows else ""


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else PAGE).write_text(cli_reference(), encoding="utf-8")
