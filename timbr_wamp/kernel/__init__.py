"""The IPython extension of kernels that timbr_wamp starts (``--ext=timbr_wamp.kernel``).

It makes ``exit`` and ``quit`` in an attached console detach the console, whereas in plain ipykernel
they end the kernel with its machine. It lets texts that UTF-8 cannot carry be sent, and runs the startup file.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Make ``exit`` detach, let any text be sent, run the startup file. No effect in an IPython that is no kernel."""
    if not hasattr(shell, "keepkernel_on_exit"):
        return
    from timbr_wamp.kernel.detach import keep_kernel_on_exit
    from timbr_wamp.kernel.encoding import send_any_text
    from timbr_wamp.kernel.startup import run_startup

    keep_kernel_on_exit(shell)
    send_any_text(shell.kernel.session)
    run_startup(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Restore IPython's own ``exit`` and ``quit``, and the session's own packer."""
    from timbr_wamp.kernel.detach import end_kernel_on_exit
    from timbr_wamp.kernel.encoding import send_as_before

    if hasattr(shell, "keepkernel_on_exit"):
        end_kernel_on_exit(shell)
        send_as_before(shell.kernel.session)
