"""Start, adopt, watch, restart and end processes: the one way for router, hosts, bridges and kernels.

`restarts` decides, and does nothing else: how long to wait, and when to give up. `process` is one process
in a session of its own, by an identity that a reused pid cannot take. `supervisor` joins the two, and
`waiting` waits in an event loop. By `reasons` a process says why it ends. `locks` keeps two processes from
doing the same work. What a process is for is left to the callers.
"""

from timbr_wamp.processes.locks import lock, locked, unlock
from timbr_wamp.processes.process import Process, end_all, log_end, log_tail, spawn
from timbr_wamp.processes.reasons import hand_over, is_supervised
from timbr_wamp.processes.restarts import RestartPolicy, Restarts
from timbr_wamp.processes.supervisor import Supervisor
from timbr_wamp.processes.waiting import wait_ended

__all__ = [
    "Process",
    "RestartPolicy",
    "Restarts",
    "Supervisor",
    "end_all",
    "hand_over",
    "is_supervised",
    "lock",
    "locked",
    "log_end",
    "log_tail",
    "spawn",
    "unlock",
    "wait_ended",
]
