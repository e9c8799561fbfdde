"""The table of every procedure and topic of the wire, with arguments, result, access and documentation.

A change to the wire starts here. The control server's dispatch, the bridge's registrations, the
client's calls, the node component's access table, the page's TypeScript types and
``docs/reference/wire.md`` are derived from these classes. In the documentation ``K`` stands for
``io.timbr.kernel.<kernel_id>``.
"""

from __future__ import annotations

from typing import Any, Protocol

from timbr_wamp import errors as e
from timbr_wamp.contract.declaration import Procedure, Scope, Topic, procedure, procedures_of
from timbr_wamp.contract.provenance import Lookup, ReplayProgress
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
    Interest,
    IopubMessage,
    IsCompleteReply,
    KernelInfo,
    Metrics,
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
from timbr_wamp.contract.trials import RevisionDiff, TrialResult


class NodeApi(Protocol):
    """Answered by the node component in the router."""

    @procedure(Access.READ)
    def list(self) -> list[KernelInfo]:
        """Return the kernels on the router, including offline ones."""

    @procedure(Access.HOST, errors=(e.InvalidArgument, e.NotAuthorized))
    def announce(self, kernel: KernelInfo) -> Interest:
        """Announce a new kernel or a changed state; return which of its topics have subscribers.

        For bridges only, and only for kernels of their own host. Changes of the interest are then sent to
        the wamp session that announced, on ``io.timbr.node.interest``.
        """


class HostApi(Protocol):
    """Answered by a host: the process that starts kernels and bridges on one computer."""

    @procedure(Access.ADMIN, errors=(e.KernelStartFailed, e.StartupFailed, e.InvalidName, e.KernelNameTaken))
    def start(self, name: str | None = None, startup: str | None = None, cwd: str | None = None) -> KernelInfo:
        """Start a kernel and its bridge; return when the kernel is on the router.

        ``startup`` is the path of a file on the host that runs in the kernel after each (re)start. If it fails, the
        kernel runs all the same, and `StartupFailed` says so.
        """

    @procedure(Access.READ)
    def list(self) -> list[KernelInfo]:
        """Return the kernels of this host."""

    @procedure(Access.ADMIN, errors=(e.UnknownKernel, e.KernelStartFailed, e.StartupFailed))
    def restart(self, kernel_id: str) -> KernelInfo:
        """Restart a kernel; it keeps its id."""

    @procedure(Access.ADMIN, errors=(e.UnknownKernel,))
    def stop(self, kernel_id: str) -> None:
        """Stop a kernel and its bridge."""


class KernelApi(Protocol):
    """Answered by a kernel's bridge, even while a cell runs."""

    @procedure(Access.READ)
    def info(self) -> KernelInfo:
        """Return the kernel's state and description, with the machines that it has at this moment."""

    @procedure(Access.READ)
    def ping(self) -> float:
        """Return the time of the bridge's clock, in UTC seconds."""

    @procedure(Access.OPERATE, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def interrupt(self) -> None:
        """Interrupt the running cell; it raises ``KeyboardInterrupt``."""

    @procedure(Access.OPERATE, errors=(e.KernelNotManaged, e.NotAKernel, e.KernelStartFailed, e.StartupFailed))
    def restart(self) -> KernelInfo:
        """Restart the kernel's process with the same connection file and id."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout, e.PayloadTooLarge))
    def execute(
        self, code: str, silent: bool = False, store_history: bool = True, timeout_s: float | None = None
    ) -> ExecuteReply:
        """Run code and return its ``execute_reply``. Output is published on ``K.iopub``.

        When it answers, the machines that the code made can be called, and those that it closed are gone.
        """

    @procedure(
        Access.ADMIN, progress=IopubMessage, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout, e.PayloadTooLarge)
    )
    def execute_interactive(
        self, code: str, silent: bool = False, store_history: bool = True, timeout_s: float | None = None
    ) -> ExecuteReply:
        """Run code as ``execute``, send its output as progressive results, and return its ``execute_reply``."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def complete(self, code: str, cursor_pos: int | None = None) -> CompleteReply:
        """Return completions. Works while a cell runs, because the bridge has a subshell of its own."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> InspectReply:
        """Return the documentation of the name at the cursor. Works while a cell runs."""

    @procedure(Access.ADMIN, errors=(e.KernelDead, e.NotAKernel, e.CallTimeout))
    def is_complete(self, code: str) -> IsCompleteReply:
        """Return whether the code is a complete cell."""

    @procedure(Access.ADMIN, errors=(e.KernelNotManaged,))
    def shutdown(self) -> None:
        """End the kernel's process and its bridge. A headless process gets SIGTERM and shuts down in order."""


class MachineApi(Protocol):
    """Answered by a machine on its control socket. The kernel's bridge relays WAMP calls to it."""

    @procedure(Access.READ)
    def status(self) -> Status:
        """Return a consistent snapshot of the machine's state and counters."""

    @procedure(Access.READ)
    def slots(self) -> list[SlotInfo]:
        """Return the slots of the newest revision."""

    @procedure(Access.READ, errors=(e.SlotOutOfRange, e.UnknownSlot))
    def slot(self, slot: int | str) -> SlotInfo:
        """Return one slot, by number or name."""

    @procedure(Access.READ, errors=(e.RunMismatch,))
    def records(self, run: str, after_seq: int, limit: int = 200) -> RecordsPage:
        """Return at most ``limit`` kept records with ``seq > after_seq``, oldest first.

        ``after_seq=0`` starts with the oldest kept record. Fewer than ``limit`` records may be returned
        when they are large, and none when there are no later records.
        """

    @procedure(Access.READ, progress=str, errors=(e.RunMismatch, e.RecordNotFound, e.PayloadTooLarge))
    def record(self, run: str, seq: int) -> RecordRow:
        """Return one record. A large text is sent before it, in parts as progressive results."""

    @procedure(Access.READ)
    def recent(self, n: int = 50) -> list[RecordRow]:
        """Return the newest ``n`` records, oldest first."""

    @procedure(Access.READ)
    def errors(self, n: int = 50) -> list[ErrorRow]:
        """Return the newest ``n`` failures, oldest first."""

    @procedure(Access.READ)
    def error_groups(self, n: int = 50) -> list[ErrorGroup]:
        """Return the ``n`` groups of failures that occurred last, most recent first.

        A group has one slot, exception class and line.
        """

    @procedure(Access.READ, pooled=True, errors=(e.UnknownMessage, e.InvalidName))
    def lookup(self, oid: str) -> Lookup:
        """Return a message with all that became of it, attempt by attempt, also while it waits or is under way.

        Texts that are too large together are left out, of the largest values first; their sizes are there.
        """

    @procedure(Access.READ)
    def graph(self) -> Graph:
        """Return which slot consumes the value of which."""

    @procedure(Access.READ, progress=Progress, pooled=True)
    def progress(self, interval_s: float = 0.5, timeout_s: float = 3600.0) -> Progress:
        """Send the progress every ``interval_s`` seconds, until it is complete or the machine does not run.

        The result is the last progress. It ends after ``timeout_s`` seconds at the latest.
        """

    @procedure(Access.READ)
    def revisions(self) -> list[RevisionInfo]:
        """Return the kept revisions of the slot table, oldest first."""

    @procedure(Access.READ, pooled=True, errors=(e.UnknownRevision,))
    def compare(self, a: int, b: int) -> RevisionDiff:
        """Return how two kept revisions differ: the sources, names and policies of their slots."""

    @procedure(Access.READ)
    def metrics(self, last_s: float = 600.0) -> Metrics:
        """Return how the counters grew in the last ``last_s`` seconds, once a second; a quarter of an hour is kept."""

    @procedure(Access.READ)
    def events(self, n: int = 100) -> list[Event]:
        """Return the newest ``n`` events, oldest first."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineFull, e.MachineClosed, e.InvalidName, e.PayloadTooLarge))
    def put(self, message: Any, oid: str | None = None) -> str:
        """Queue a message; return its id. A message whose ``oid`` is already known is not queued again."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineClosed, e.InvalidName, e.PayloadTooLarge))
    def put_many(self, messages: list[Any], oids: list[str] | None = None, timeout_s: float = 0.0) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for space. Messages without space are refused."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.MachineClosed,))
    def call(self, message: Any) -> CallResult:
        """Run a message through the slots and return its record, which is neither counted nor published."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.WrongState, e.MachineClosed))
    def start(self) -> Status:
        """Start processing. No effect on a running machine."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.CallTimeout,))
    def stop(self, drain: bool = False, timeout_s: float = 5.0) -> Status:
        """Stop; with ``drain`` process the queued messages first. The queue is kept."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.WrongState,))
    def pause(self) -> Status:
        """Pause after the current message; queued messages stay queued."""

    @procedure(Access.OPERATE, pooled=True, errors=(e.WrongState,))
    def resume(self) -> Status:
        """Continue after a pause."""

    @procedure(
        Access.OPERATE,
        progress=ReplayProgress,
        pooled=True,
        errors=(
            e.MachineFull,
            e.RecordNotFound,
            e.RunMismatch,
            e.UnknownMessage,
            e.UnknownErrorGroup,
            e.PayloadTooLarge,
        ),
    )
    def replay(
        self,
        run: str | None = None,
        seqs: list[int] | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        timeout_s: float = 0.0,
    ) -> list[str]:
        """Queue messages again, each as the next attempt with the same oid, and return the oids.

        Which: by numbers of records ``seqs`` of a ``run`` (None: the present one), by ``oids``, or of an error
        ``group``. Waits at most ``timeout_s`` for room, and sends progress when there are many.
        """

    @procedure(
        Access.OPERATE,
        progress=ReplayProgress,
        pooled=True,
        errors=(e.MachineFull, e.CanaryFailed, e.UnknownErrorGroup, e.WrongState),
    )
    def retry_errors(
        self, oids: list[str] | None = None, group: str | None = None, canary: int = 0, timeout_s: float = 60.0
    ) -> list[str]:
        """Queue unresolved errored messages again as their next attempt; return the oids.

        ``oids`` or an error ``group`` select messages; without them it is all. A group is named by its slot,
        exception class and line, ``f1:ValueError:file:line``, or the beginning of that. With ``canary`` so many are
        retried first; the rest follows only when they have passed, and waits for room. Canaries, and the room for the
        rest, have ``timeout_s`` each.
        """

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
            e.TableChanged,
        ),
    )
    def slot_set(
        self,
        slot: int | str,
        function: FunctionRef | list[FunctionRef | None],
        name: str | None = None,
        policy: Policy | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        """Assign a function to a slot, or a list of functions to consecutive slots, as one revision.

        ``policy`` is set for that one slot; None keeps its current policy. ``reason`` is kept with the revision. With
        ``if_revision`` it is refused unless that one is the newest.
        """

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.UnknownSlot))
    def slot_delete(self, slot: int | str, reason: str | None = None) -> RevisionInfo:
        """Unset a slot, so that it passes its value on."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.UnknownSlot, e.InvalidArgument))
    def policy_set(self, slot: int | str | None, policy: Policy | None, reason: str | None = None) -> RevisionInfo:
        """Set the policy of a slot, or of the machine with ``slot=None``; ``policy=None`` removes the slot's own."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownPlugin, e.InvalidArgument))
    def handler_set(self, handler: str, options: dict[str, Any] | None = None) -> Status:
        """Set the event handler by its name, created with ``options``."""

    @procedure(Access.ADMIN, pooled=True, errors=(e.InvalidArgument,))
    def configure(
        self, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or the number of messages in flight at once.

        Queued messages are kept. Only unset slots can be removed.
        """

    @procedure(Access.ADMIN, pooled=True, errors=(e.SlotOutOfRange, e.NotCallable, e.InvalidSource, e.PythonMismatch))
    def trial(self, slot: int | str, function: FunctionRef, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot. The machine is not changed.

        Rows are in the order of the records, oldest first; fewer than ``n`` when they are large.
        """

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
            e.UnknownMessage,
            e.UnknownErrorGroup,
        ),
    )
    def trial_report(
        self,
        slot: int | str,
        function: FunctionRef,
        last: int | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        samples: list[Any] | None = None,
        timeout_s: float = 60.0,
    ) -> TrialResult:
        """Run a function beside the present one of a slot, on copies; return what differs. The machine is not changed.

        On the newest ``last`` messages (100 if nothing says which), on those of ``oids`` or of an error ``group``, or
        on ``samples``, which are messages. ``slot_set`` with ``if_revision`` of the result's ``base_revision`` commits
        it.
        """

    @procedure(
        Access.ADMIN,
        pooled=True,
        errors=(e.UnknownRevision, e.InvalidSource, e.PrepFailed, e.UnknownMessage, e.UnknownErrorGroup),
    )
    def table_trial(
        self,
        after: int | None = None,
        before: int | None = None,
        last: int | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        seqs: list[int] | None = None,
        with_values: dict[str, Any] | None = None,
        timeout_s: float = 60.0,
    ) -> TrialResult:
        """Run messages through the slots of a revision, on copies, beside another's; return what differs.

        ``after``: the revision; None: the newest. ``before``: the other one; None: what the records have.
        ``with_values``: what slots give instead of their functions, by number or name.
        """

    @procedure(Access.ADMIN, pooled=True, errors=(e.UnknownRevision, e.PrepFailed, e.TableChanged))
    def rollback(self, number: int, reason: str | None = None, if_revision: int | None = None) -> RevisionInfo:
        """Make a copy of an earlier slot table the newest revision.

        With ``if_revision`` it is refused unless that one is the newest.
        """

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
        """Set the source of messages. The reference evaluates to an iterable, or to a function that returns one."""

    @procedure(Access.ADMIN, pooled=True)
    def source_delete(self) -> Status:
        """Remove the source. Messages that were read from it stay queued."""


NODE = procedures_of(NodeApi, "node")
HOST = procedures_of(HostApi, "host")
KERNEL = procedures_of(KernelApi, "kernel")
MACHINE = procedures_of(MachineApi, "machine")

PROCEDURES: dict[Scope, dict[str, Procedure]] = {"node": NODE, "host": HOST, "kernel": KERNEL, "machine": MACHINE}

_TOPICS = (
    Topic("node", "discovery", Access.READ, Discovery, "A kernel was added, changed or removed."),
    Topic(
        "node",
        "interest",
        Access.HOST,
        Interest,
        "The topics of a kernel that have subscribers changed; sent to the wamp session of its bridge alone.",
    ),
    Topic("kernel", "state", Access.READ, KernelInfo, "State of a kernel and its machines; retained.", retained=True),
    Topic("kernel", "iopub", Access.ADMIN, IopubMessage, "Output of the kernel, numbered by the bridge."),
    Topic(
        "machine",
        "",
        Access.READ,
        tuple[str, list[Any]],
        "One event per record, ``(oid, [in, f0, …])``. Above 200 a second the records are sampled by the machine: "
        "the keyword ``sampled=n`` says that one in n is published.",
    ),
    Topic("machine", "records", Access.READ, RecordsBatch, "All records, in batches of at most about 200."),
    Topic("machine", "status", Access.READ, Status, "Published on change, at most 4/s; retained.", retained=True),
    Topic("machine", "event", Access.READ, Event, "Changes of the machine's state."),
    Topic(
        "machine",
        "error",
        Access.READ,
        ErrorRow,
        "Failures of slots, at most 10/s; `errors` returns all.",
    ),
)
TOPICS: dict[Scope, dict[str, Topic]] = {
    scope: {topic.name: topic for topic in _TOPICS if topic.scope == scope} for scope in PROCEDURES
}

#: Names that a machine may not have: procedures and topics of a kernel, including planned ones.
RESERVED_NAMES = frozenset(
    {*KERNEL, *TOPICS["kernel"], "log", "log_records", "output", "channel", "history", "comm_msg", "input_reply"}
)
