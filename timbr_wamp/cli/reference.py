"""``docs/reference/cli.md``, made from the commands themselves: ``python -m timbr_wamp.cli.reference``.

A test fails when the page is stale.
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

<!-- Made from timbr_wamp/cli by `python -m timbr_wamp.cli.reference`; do not edit. -->

`timbr-wamp COMMAND --help` shows the same. Which router: `--url`, else `TIMBR_WAMP_URL`, else `timbr.toml`, else the
router that runs on this computer. Which token: `TIMBR_WAMP_TOKEN`, else `timbr.toml`, else the local router's own;
never an argument, since all users of a computer see those. `KERNEL` is an id, a name or a unique beginning of one;
where it may be left out, the only kernel is meant.

Exit status: 0 it worked; 1 it did not, and a sentence on stderr says why (`timbr-wamp --debug …` shows the traceback);
2 wrong usage; 3 `machine` and `run` with `--until-done`: done, with errored messages left; 130 Ctrl-C. `--json` prints
for programs; what is not the result goes to stderr. `NO_COLOR` is honoured.
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
    """Yield every command with the words that call it, in alphabetical order."""
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
        shown = parameter.get_help_record(click.Context(command))
        if shown is not None:
            names, text = (part.replace("|", "\\|") for part in shown)
            rows.append(f"| `{names}` | {text} |")
    return "\n".join(["| option | |", "|---|---|", *rows]) if rows else ""


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else PAGE).write_text(cli_reference(), encoding="utf-8")
