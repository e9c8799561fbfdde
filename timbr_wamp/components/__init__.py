"""Bridges and hosts: the processes that put kernels on the router. They are started by the command line.

The two programs are `bridge` and `host`. `kernel_supervisor` manages one kernel's process and
`kernel_channels` its Jupyter channels. `machine_connection`, with `control_client` and
`records_subscriber`, reads one machine's sockets. `relay` contains the bridge's decisions, without I/O.
"""

__all__: list[str] = []
