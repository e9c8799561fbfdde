"""Make ``exit`` and ``quit`` leave the kernel alive.

IPython puts one autocall object under both names (`IPython.core.autocall.ZMQExitAutocall`); called,
it tells the frontend to go, and the kernel's loop to stop unless ``keep_kernel`` is true. Ours always
keeps the kernel. Who wants to end it says so: ``timbr-wamp``, ``K.shutdown``, or the frontend's own
"shut down" verb.
"""

from __future__ import annotations

from typing import Any

from IPython.core.autocall import ZMQExitAutocall

NAMES = ("exit", "quit")


class DetachAutocall(ZMQExitAutocall):  # type: ignore[misc]  # IPython has no type hints
    """``exit``: end the attached console, never the kernel."""

    def __call__(self, keep_kernel: bool = True) -> None:
        super().__call__(keep_kernel=True)


def keep_kernel_on_exit(shell: Any) -> None:
    """Replace ``exit`` and ``quit`` by what only detaches."""
    _replace(shell, DetachAutocall(shell))


def end_kernel_on_exit(shell: Any) -> None:
    """Put IPython's own ``exit`` and ``quit`` back."""
    _replace(shell, shell.exiter)


def _replace(shell: Any, exiter: object) -> None:
    # the hidden names too, or %who and %reset would take ours for a variable of the user's
    for name in NAMES:
        shell.user_ns[name] = exiter
        shell.user_ns_hidden[name] = exiter
