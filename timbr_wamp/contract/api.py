"""THE table: every procedure and topic of the wire, with arguments, result, access and meaning.

A change to the wire starts here. From these classes come the control server's dispatch, the
bridge's registrations, the client's calls, the node component's access table, the page's
TypeScript types and ``docs/reference/wire.md``. Names: DESIGN.md, section 6.
"""

from __future__ import annotations

from typing import Any, Protocol

from timbr_wamp import errors as e
from timbr_wamp.contract.structs import (
    Access,
    CallResult,
    CompleteReply,
    Discovery,
    ErrorGroup,
    ErrorRow,
    Event,
    ExecuteReply,
    FunctionRef,
    Graph,
    InspectReply,
    IopubMessage,
    IsCompleteReply,
    KernelInfo,
    Policy,
    Progress,
    PutResult,
    RecordRow,
    RecordsBatch,
    RecordsPage,
    RevisionInfo,
    SlotInfo,
    SourceOptions,
    Status,
    TrialRow,
)
from timbr_wamp.contract.table import Procedure, Scope, Topic, procedure, procedures_of


class NodeApi(Protocol):
    """Answered by the node component in the router."""

    @procedure(Access.READ)
    def list(self) -> list[KernelInfo]:
        """Return the kernels on the router, offline ones that may come back included."""

    @procedure(Access.HOST, errors=(e.InvalidArgument, e.NotAuthorized))
    def announce(self, kernel: KernelInfo) -> None:
        """Say that a kernel came or changed. Bridges only, for kernels of their own host."""


class HostApi(Protocol):
    """Answered by a host: the process that starts kernels and bridges on one computer."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.KernelStartFailed,))
    def start(self, name: str | None = None, startup: str | None = None, cwd: str | None = None) -> KernelInfo:
        """Start a kernel and its bridge; return when it is on the router.

        ``startup`` is a file on the host that runs in the kernel after each (re)start.
        """

    @procedure(Access.READ)
    def list(self) -> list[KernelInfo]:
        """Return this host's kernels."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownKernel, e.KernelStartFailed))
    def restart(self, kernel_id: str) -> KernelInfo:
        """Restart a kernel; its id stays."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownKernel,))
    def stop(self, kernel_id: str) -> None:
        """End a kernel and its bridge."""


class KernelApi(Protocol):
    """Answered by a kernel's bridge, also while a cell runs."""

    @procedure(Access.READ)
    def info(self) -> KernelInfo:
        """Return what is known of the kernel."""

    @procedure(Access.READ)
    def ping(self) -> float:
        """Return the bridge's clock, UTC seconds."""

    @procedure(Access.OPERATE, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def interrupt(self) -> None:
        """Interrupt the running cell: it gets a ``KeyboardInterrupt``."""

    @procedure(Access.OPERATE, errors=(e.NotOurs, e.NotAKernel, e.KernelStartFailed))
    def restart(self) -> KernelInfo:
        """End the kernel's process and start it again with the same connection file and id."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout, e.PayloadTooLarge))
    def execute(
        self, code: str, silent: bool = False, store_history: bool = True, timeout_s: float | None = None
    ) -> ExecuteReply:
        """Run code; return how it ended. Its output goes to ``K.iopub``."""

    @procedure(
        Access.ADMIN, progress=IopubMessage, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout, e.PayloadTooLarge)
    )
    def execute_interactive(
        self, code: str, silent: bool = False, store_history: bool = True, timeout_s: float | None = None
    ) -> ExecuteReply:
        """Run code; send this request's own output as progressive results, then how it ended."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def complete(self, code: str, cursor_pos: int | None = None) -> CompleteReply:
        """Return completions; works while a cell runs (by a subshell of the bridge's own)."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> InspectReply:
        """Return documentation of the name at the cursor; works while a cell runs."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def is_complete(self, code: str) -> IsCompleteReply:
        """Tell whether the code is a whole cell."""

    @procedure(Access.ADMIN, errors=(e.NotOurs,))
    def shutdown(self) -> None:
        """End the kernel's process and its bridge. A headless process is told to end in order."""


class MachineApi(Protocol):
    """Answered by a machine through its control socket; over WAMP relayed by the kernel's bridge."""

    @procedure(Access.READ)
    def status(self) -> Status:
        """Return the machine's state and counters, taken at one instant."""

    @procedure(Access.READ)
    def slots(self) -> list[SlotInfo]:
        """Return the slots of the newest revision."""

    @procedure(Access.READ, errors=(e.SlotOutOfRange, e.UnknownSlot))
    def slot(self, slot: int | str) -> SlotInfo:
        """Return one slot, by number or name."""

    @procedure(Access.READ, errors=(e.RunMismatch,))
    def records(self, run: str, after_seq: int, limit: int = 200) -> RecordsPage:
        """Return at most ``limit`` kept records with ``seq > after_seq``, oldest first.

        ``after_seq=0`` begins with the oldest one kept. Less than ``limit`` rows may come back when
        they are large; none when there are no later ones.
        """

    @procedure(Access.READ, progress=str, errors=(e.RunMismatch, e.RecordNotFound, e.PayloadTooLarge))
    def record(self, run: str, seq: int) -> RecordRow:
        """Return one record. A large text comes before it in progressive parts, to be joined."""

    @procedure(Access.READ)
    def recent(self, n: int = 50) -> list[RecordRow]:
        """Return the newest records, oldest of them first."""

    @procedure(Access.READ)
    def errors(self, n: int = 50) -> list[ErrorRow]:
        """Return the newest failures, oldest of them first."""

    @procedure(Access.READ)
    def error_groups(self, n: int = 50) -> list[ErrorGroup]:
        """Return failures by slot, exception class and line, those seen last first."""

    @procedure(Access.READ)
    def graph(self) -> Graph:
        """Return which slot consumes whose value."""

    @procedure(Access.READ, progress=Progress, pooled=True)
    def progress(self, interval_s: float = 0.5, timeout_s: float = 3600.0) -> Progress:
        """Send how far the machine is, until it is complete or does not run; then return it once more."""

    @procedure(Access.READ)
    def revisions(self) -> list[RevisionInfo]:
        """Return the kept revisions of the slot table, oldest first."""

    @procedure(Access.READ)
    def events(self, n: int = 100) -> list[Event]:
        """Return the newest events, oldest of them first."""

    @procedure(Access.OPERATE, errors=(e.MachineFull, e.MachineClosed, e.InvalidName, e.PayloadTooLarge))
    def put(self, message: Any, oid: str | None = None) -> str:
        """Queue a message; return its id. An ``oid`` that is known already is not put twice."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineClosed, e.InvalidName, e.PayloadTooLarge))
    def put_many(self, messages: list[Any], oids: list[str] | None = None, timeout_s: float = 0.0) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for room; those without are refused."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineClosed,))
    def call(self, message: Any) -> CallResult:
        """Run a message through the slots; count and publish nothing."""

    @procedure(Access.OPERATE, errors=(e.WrongState, e.MachineClosed))
    def start(self) -> Status:
        """Start processing; a running machine stays so."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.CallTimeout,))
    def stop(self, drain: bool = False, timeout_s: float = 5.0) -> Status:
        """Stop; with ``drain`` finish what waits first. The queue is kept."""

    @procedure(Access.OPERATE, errors=(e.WrongState,))
    def pause(self) -> Status:
        """Stop after the message under way; the rest waits."""

    @procedure(Access.OPERATE, errors=(e.WrongState,))
    def resume(self) -> Status:
        """Go on after a pause."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineFull, e.RecordNotFound, e.RunMismatch))
    def replay(self, run: str, seqs: list[int]) -> list[str]:
        """Put kept messages again, each as the next attempt under its own oid; return the oids."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineFull,))
    def retry_errors(self, oids: list[str] | None = None) -> list[str]:
        """Put unresolved errored messages again as the next attempt; return their oids. None: all of them."""

    @procedure(
        Access.ADMIN,
        pooled=True,
        errors=(
            e.SlotOutOfRange,
            e.UnknownSlot,
            e.NotCallable,
            e.InvalidSource,
            e.PythonMismatch,
            e.PrepFailed,
            e.InvalidArgument,
        ),
    )
    def slot_set(
        self,
        slot: int | str,
        function: FunctionRef | list[FunctionRef | None],
        name: str | None = None,
        policy: Policy | None = None,
    ) -> RevisionInfo:
        """Put a function in a slot, or several in consecutive slots from it, as one revision.

        ``policy``: of that one slot; None leaves the one it has.
        """

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.UnknownSlot))
    def slot_delete(self, slot: int | str) -> RevisionInfo:
        """Make a slot identity again."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.UnknownSlot, e.InvalidArgument))
    def policy_set(self, slot: int | str | None, policy: Policy | None) -> RevisionInfo:
        """Set a slot's policy, or with ``slot=None`` the machine's; ``policy=None`` takes the slot's own away."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownPlugin, e.InvalidArgument))
    def handler_set(self, handler: str, options: dict[str, Any] | None = None) -> Status:
        """Choose the event handler by its name, made with ``options``."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.InvalidArgument,))
    def configure(
        self, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or of messages under way at once.

        What waits stays; only unset slots go.
        """

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.NotCallable, e.InvalidSource, e.PythonMismatch))
    def trial(self, slot: int | str, function: FunctionRef, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot; change nothing."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownRevision, e.PrepFailed))
    def rollback(self, number: int) -> RevisionInfo:
        """Make an earlier slot table the newest revision."""

    @procedure(
        Access.ADMIN,
        pooled=True,
        errors=(e.SourceActive, e.NotASource, e.InvalidSource, e.PythonMismatch, e.InvalidArgument),
    )
    def source_set(
        self,
        source: FunctionRef,
        total: int | None = None,
        replace: bool = False,
        options: SourceOptions | None = None,
    ) -> Status:
        """Set where messages come from: the reference gives an iterable, or a function that does."""

    @procedure(Access.ADMIN, pooled=True)
    def source_delete(self) -> Status:
        """Take the source away; what was read of it stays queued."""


NODE = procedures_of(NodeApi, "node")
HOST = procedures_of(HostApi, "host")
KERNEL = procedures_of(KernelApi, "kernel")
MACHINE = procedures_of(MachineApi, "machine")

PROCEDURES: dict[Scope, dict[str, Procedure]] = {"node": NODE, "host": HOST, "kernel": KERNEL, "machine": MACHINE}

_TOPICS = (
    Topic("node", "discovery", Access.READ, Discovery, "A kernel came, changed or went."),
    Topic("kernel", "state", Access.READ, KernelInfo, "Kernel and its machines; retained.", retained=True),
    Topic("kernel", "iopub", Access.ADMIN, IopubMessage, "The kernel's output, numbered by the bridge."),
    Topic(
        "machine",
        "",
        Access.READ,
        tuple[str, list[Any]],
        "One event a record, ``(oid, [in, f0, …])``; above the bridge's rate cap a sample, and the keyword "
        "``sampled`` then says one in how many.",
    ),
    Topic("machine", "records", Access.READ, RecordsBatch, "All records, in batches."),
    Topic("machine", "status", Access.READ, Status, "On change, at most 4/s; retained.", retained=True),
    Topic("machine", "event", Access.READ, Event, "What changed the machine's state."),
    Topic("machine", "error", Access.READ, ErrorRow, "A slot failed; at most 10/s, `errors` has them all."),
)
TOPICS: dict[Scope, dict[str, Topic]] = {
    scope: {topic.name: topic for topic in _TOPICS if topic.scope == scope} for scope in PROCEDURES
}

#: No machine may be called like one of a kernel's own procedures or topics, present or planned.
RESERVED_NAMES = frozenset(
    {*KERNEL, *TOPICS["kernel"], "log", "log_records", "output", "channel", "history", "comm_msg", "input_reply"}
)
