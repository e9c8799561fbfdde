"""How the user's shell calls ``timbr-wamp``. All that is printed for typing is made here, so that it can be pasted.

The command is its name where the PATH leads to it, and otherwise a path: in a clone the environment is often not
activated, and ``uv run`` extends only the PATH of what it runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command_line", "command_name", "this_is_the_command"]

NAME = "timbr-wamp"

#: This process was called from a shell, so that the shell's working folder is that of the process.
_in_shell = False


def this_is_the_command() -> None:
    """Remember that this process is the command itself. A kernel, for example, has a working folder of its own."""
    global _in_shell
    _in_shell = True


def command_line(*words: str, elsewhere: bool = False) -> str:
    """Return a command for the user to type: this command with ``words``, as a shell reads them.

    Args:
        elsewhere: it is typed in another terminal, whose working folder is another one.
    """
    return " ".join((command_name(from_here=_in_shell and not elsewhere), *map(shlex.quote, words)))


def command_name(*, from_here: bool = True) -> str:
    """Return how to call this command: its name when the PATH leads to it, otherwise its path.

    Args:
        from_here: a path below the working folder is a relative one.
    """
    beside = Path(sys.executable).with_name(NAME)
    on_path = None if "UV" in os.environ else shutil.which(NAME)
    if on_path is not None and Path(on_path).samefile(beside if beside.exists() else on_path):
        return NAME
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m timbr_wamp"
    try:
        here = Path.cwd()
    except FileNotFoundError:
        here = Path()
    return shlex.quote(str(beside.relative_to(here) if from_here and beside.is_relative_to(here) else beside))
