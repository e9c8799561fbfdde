"""Detect whether output goes to a notebook, to a terminal, or elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO


def notebook_shell() -> Any | None:
    """Return IPython's shell inside a Jupyter kernel; None in terminals and in plain Python.

    Does not import IPython: a shell exists only when IPython is already imported.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def is_terminal(file: TextIO) -> bool:
    """Return whether ``file`` is an interactive terminal."""
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # an object with write() only; a closed file
        return False
