"""The ``%wamp`` magics: control kernels on the router and their machines from a notebook or IPython.

``%load_ext timbr_wamp`` loads them. ``%juno`` is the same magic under its name in juno-magic. For
the verbs see ``%wamp help`` and ``docs/reference/magics.md``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Add ``%wamp`` and ``%juno`` and their completion to a shell. Idempotent."""
    from timbr_wamp.magic.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics and close the client that they opened."""
    from timbr_wamp.magic.extension import unload

    unload(shell)
