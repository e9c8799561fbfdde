"""What joins kernels to the router: bridges and hosts. Processes of their own; used through the command line.

`bridge` and `host` are the two programs. Beside them: `keeper` (one kernel's process), `kernel_link` (its
Jupyter channels), `machine_link` with `control_link` and `records_link` (one machine's sockets), `relay`
(what is decided, without sockets).
"""

__all__: list[str] = []
