"""The ``%wamp`` magics: kernels on the router and their machines, from a notebook or IPython.

``%load_ext timbr_wamp`` brings them. ``%juno`` is the same object under the name that it had in
juno-magic. What each verb does: ``%wamp help``, and ``docs/reference/magics.md``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Add ``%wamp`` and ``%juno`` and their completion to a shell. Replay changes nothing."""
    from timbr_wamp.magic.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take all of it away again, and close the client that it opened."""
    from timbr_wamp.magic.extension import unload

    unload(shell)
