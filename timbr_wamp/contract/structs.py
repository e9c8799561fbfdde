"""The values that cross the wire, as msgspec structs. The machine fills them; nobody else defines any.

Times are UTC seconds since the epoch, durations seconds, sizes bytes. A JSON text is the UTF-8 text
of one JSON value, passed through unparsed.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

from timbr_wamp.contract.displayable import Displayable, Printer
from timbr_wamp.tables import moment

__all__ = [
    "Access",
    "Backpressure",
    "CallResult",
    "CompleteReply",
    "Discovery",
    "ErrorGroup",
    "ErrorRow",
    "Event",
    "EventKind",
    "ExecuteReply",
    "FunctionRef",
    "Graph",
    "GraphNode",
    "InspectReply",
    "IopubMessage",
    "IsCompleteReply",
    "KernelInfo",
    "KernelStateName",
    "MachineBrief",
    "MachineStateName",
    "OnExhausted",
    "PAYLOAD_LIMIT_BYTES",
    "Policy",
    "PolicyCounts",
    "Progress",
    "PutResult",
    "RecordMeta",
    "RecordRow",
    "RecordsBatch",
    "RecordsPage",
    "RevisionInfo",
    "ROW_LIMIT_BYTES",
    "SlotCounts",
    "SlotInfo",
    "SlotKind",
    "SourceOptions",
    "SourceStateName",
    "SourceStatus",
    "Status",
    "TrialRow",
    "Verdict",
]

#: Payloads of one call, result or event stay below this; the router's own limit is four times as much.
PAYLOAD_LIMIT_BYTES = 1024 * 1024
#: A record's text over this size travels as its size; `record` fetches the text in parts.
ROW_LIMIT_BYTES = 256 * 1024

MachineStateName = Literal["idle", "running", "paused", "draining", "stopped", "failed"]
KernelStateName = Literal["starting", "idle", "busy", "restarting", "dead", "offline"]
SourceStateName = Literal["none", "waiting", "reading", "restarting", "exhausted", "failed"]
#: What becomes of a message one of whose slots raised, once no retries are left.
Verdict = Literal["record", "default", "drop", "dead_letter", "pause", "stop"]
#: What a source does while the queue is full.
Backpressure = Literal["wait", "drop_new", "drop_old", "sample"]
OnExhausted = Literal["keep", "stop", "restart"]
SlotKind = Literal["identity", "function", "async", "object"]
EventKind = Literal[
    "started",
    "resumed",
    "paused",
    "stopped",
    "failed",
    "closed",
    "slot_changed",
    "configured",
    "handler_changed",
    "source_set",
    "source_deleted",
    "source_failed",
    "restarted",
    "exhausted",
    "idle",
    "drained",
    "full",
    "stalled",
    "object_failed",
]


class Access(enum.Enum):
    """Who may: each class includes those before it. ``host`` is for bridges and hosts only."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    HOST = "host"


class Policy(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What becomes of a message when a slot raises: tried again first, then the verdict.

    ``record``: the failure is recorded, slots that consume it are skipped. ``default``: the slot
    gives `default` instead. ``drop``, ``dead_letter``: no later slot runs; the message is recorded
    as dropped, or as errored and to be looked at. ``pause``, ``stop``: the machine does so, and the
    message returns to the head of the queue, to run again whole.
    """

    on_error: Verdict = "record"
    #: Further tries in the same attempt.
    retries: int = 0
    #: Before the first retry; twice as long before each later one, up to ``backoff_max_s``.
    backoff_s: float = 0.0
    backoff_max_s: float = 60.0
    #: The slot's value with ``on_error="default"``.
    default: Any = None
    #: A try may take so long; None: as long as it likes.
    timeout_s: float | None = None


class PolicyCounts(msgspec.Struct, kw_only=True):
    """What policies did to messages, since the machine was made. Dropped ones: `Status.dropped`."""

    #: Further tries of slots.
    retries: int = 0
    #: Slots' failures that a retry mended.
    mended: int = 0
    defaults: int = 0
    dead_letters: int = 0
    #: Pauses and stops, each of which kept its message.
    pauses: int = 0
    stops: int = 0
    timeouts: int = 0
    #: Calls that timed out and run on in their threads.
    abandoned: int = 0


class SourceOptions(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How a source is read."""

    #: While the queue is full: wait, drop the new or the oldest message, or queue one in ``sample_every``.
    policy: Backpressure = "wait"
    sample_every: int = 10
    #: When it is exhausted: keep running, stop the machine once all is processed, or read it from its begin again.
    on_exhausted: OnExhausted = "keep"
    #: A source that gives nothing for so long counts as exhausted; None: it may be silent for ever.
    idle_timeout_s: float | None = None
    #: A source that fails is begun again at most so often in a row; a message read in between counts as well again.
    restarts: int = 0
    #: Before the first restart; twice as long before each later one, up to ``backoff_max_s``.
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0


class SourceStatus(msgspec.Struct, kw_only=True):
    """Where the messages come from, and how far it is."""

    state: SourceStateName = "none"
    #: Messages read since it was set.
    count: int = 0
    #: How many there will be; None when nobody knows.
    total: int | None = None
    #: Seconds left at the rate of the last 10 s; None when total or rate are unknown.
    eta_s: float | None = None
    #: ``Class: text`` of the error that ended it, or after which it is begun again.
    error: str | None = None
    #: Messages that its policy dropped; part of the machine's ``dropped``.
    dropped: int = 0
    #: How often it was begun again.
    restarts: int = 0
    options: SourceOptions = SourceOptions()


class Progress(Displayable, msgspec.Struct, kw_only=True):
    """How far a machine is with its source."""

    #: Messages accounted for since the source was set.
    done: int
    #: How many there will be; None when nobody knows.
    total: int | None = None
    #: 0 to 100; None without a total.
    percentage: float | None = None
    errored: int = 0
    #: Records per second over the last 10 s.
    rate_per_s: float = 0.0
    eta_s: float | None = None
    state: MachineStateName = "idle"
    #: The source is exhausted and all of it is recorded.
    complete: bool = False


class SlotCounts(msgspec.Struct, kw_only=True):
    """How often a slot ran, and how fast. Times are of a sample, one message in 32."""

    slot: int
    calls: int = 0
    #: Failures that ended as such; those that a retry mended or a default replaced are told apart.
    errors: int = 0
    skipped: int = 0
    retries: int = 0
    mended: int = 0
    defaults: int = 0
    timeouts: int = 0
    p50_s: float | None = None
    p99_s: float | None = None


class Status(Displayable, msgspec.Struct, kw_only=True):
    """A machine, now. ``put == processed + errored + dropped + queue_size + in_flight``, always."""

    name: str
    #: Identity of the present numbering of records.
    run: str
    state: MachineStateName
    #: Why, when the state is ``failed`` or ``stopped`` by itself.
    reason: str | None = None
    #: It is to process messages, and the thread that does so lives. One that gets nowhere tells so by an event.
    running: bool = False
    put: int = 0
    processed: int = 0
    errored: int = 0
    dropped: int = 0
    #: Puts that were turned away; not part of ``put``.
    refused: int = 0
    queue_size: int = 0
    queue_capacity: int = 0
    in_flight: int = 0
    #: Number of the newest record in ``run``; 0 before the first.
    last_seq: int = 0
    last_oid: str | None = None
    current_oid: str | None = None
    last_processed_time: float | None = None
    revision: int = 0
    #: Records finished per second over the last 1, 10 and 60 s.
    rate_per_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    uptime_s: float = 0.0
    #: When this was taken.
    time: float = 0.0
    source: SourceStatus = msgspec.field(default_factory=SourceStatus)
    slots: list[SlotCounts] = []
    #: Messages that wait for a retry; part of ``in_flight``.
    retrying: int = 0
    policies: PolicyCounts = msgspec.field(default_factory=PolicyCounts)
    #: The machine-wide policy, for slots without one of their own.
    on_error: Policy = Policy()
    #: Name of the event handler.
    handler: str = "BaseEventHandler"
    executor: str = "inline"
    #: Messages that may be under way at once, where the slots allow it.
    concurrency: int = 1
    #: Failures of hooks and callbacks, and events that reached none of them since they were too slow.
    hook_failures: int = 0
    events_dropped: int = 0

    def legacy(self) -> dict[str, Any]:
        """Return the status that timbr machines have always given, by its keys; times are RFC 3339."""
        return {
            "CurrentOID": self.current_oid,
            "LastOID": self.last_oid,
            "Processed": self.processed,
            "QueueSize": self.queue_size,
            "CurrentTime": moment(self.time),
        }

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))  # IPython shows the card; repr() is the struct's


class SlotInfo(Displayable, msgspec.Struct, kw_only=True):
    """One slot of the newest revision."""

    slot: int
    name: str | None = None
    #: Unset: the value is carried, nothing is called.
    identity: bool = True
    kind: SlotKind = "identity"
    #: How people name the function: ``module.qualname`` or the object's class.
    function: str | None = None
    #: Source text when it can be had.
    source: str | None = None
    #: How many values it gets: f[i-1], …, f0, in; -1 means all. JSON texts follow when ``texts`` > 0.
    values: int = 0
    texts: int = 0
    #: Revision that put it there, and by whom.
    revision: int = 0
    author: str | None = None
    #: Its own policy; None: the machine's.
    policy: Policy | None = None
    counts: SlotCounts | None = None


class RevisionInfo(Displayable, msgspec.Struct, kw_only=True):
    """One state of the slot table that was."""

    number: int
    time: float
    author: str | None = None
    #: What was done: ``set 0``, ``delete 2``, ``rollback to 3``.
    change: str = ""
    #: Names of the functions, one a slot; None for identity.
    functions: list[str | None] = []


class RecordMeta(msgspec.Struct, kw_only=True):
    """What stands beside a record's values, and is JSON in its third frame."""

    run: str
    seq: int
    attempt: int
    revision: int
    received_at: float
    finished_at: float
    errored: bool
    #: A policy dropped it.
    dropped: bool = False
    #: What policies did, by slot: ``{"f1": "retry 2"}``, ``"default"``, ``"drop"``, ``"dead_letter"``.
    policies: dict[str, str] | None = None
    #: Only where the text was too large to send: how large it is.
    text_bytes: int | None = None


class RecordRow(msgspec.Struct, array_like=True):
    """One record on the wire: ``[seq, oid, text, meta]``, everywhere the same."""

    seq: int
    oid: str
    #: JSON text ``[in, f0, …]``; None when too large: ``meta`` then has ``text_bytes``.
    text: str | None
    #: JSON text of a `RecordMeta`.
    meta: str


class RecordsPage(msgspec.Struct, kw_only=True):
    """Kept records after a number, oldest first."""

    run: str
    #: Number of the oldest record still kept; ``last_seq + 1`` when none is.
    first_available: int
    last_seq: int
    rows: list[RecordRow]


class RecordsBatch(msgspec.Struct, kw_only=True):
    """Consecutive records as one event."""

    run: str
    first_seq: int
    last_seq: int
    rows: list[RecordRow]


class ErrorRow(Displayable, msgspec.Struct, kw_only=True):
    """One slot's failure in one attempt at a message."""

    run: str
    #: Number of its record; 0 when there is none, since the message was kept by a pause or stop.
    seq: int
    oid: str
    attempt: int
    revision: int
    time: float
    slot: int
    task: str
    exc_class: str
    exc_value: str
    exc_tb: str
    #: The message's JSON text, its first 2000 characters.
    input: str
    #: A later try or attempt at the same message went well.
    resolved: bool = False
    #: What became of it: a verdict, or ``retry`` when a further try went well.
    policy: str = "record"
    #: Tries that failed.
    tries: int = 1
    #: ``file:line`` where it was raised.
    where: str = ""


class ErrorGroup(Displayable, msgspec.Struct, kw_only=True):
    """Failures of one kind: same slot, same exception class, same line."""

    slot: int
    task: str
    exc_class: str
    #: ``file:line`` where it is raised.
    where: str
    count: int = 0
    #: Failures per minute over the last 10 minutes, or as long as it is known.
    rate_per_min: float = 0.0
    first_oid: str = ""
    last_oid: str = ""
    first_time: float = 0.0
    last_time: float = 0.0
    #: Text, message (its JSON text, 2000 characters) and traceback of the last one.
    exc_value: str = ""
    input: str = ""
    exc_tb: str = ""
    #: How many came to what, by policy.
    policies: dict[str, int] = {}
    #: Messages whose newest attempt failed so; those a policy dealt with are not among them.
    open: int = 0
    #: There were some, and none is left open.
    resolved: bool = False


class GraphNode(msgspec.Struct, kw_only=True):
    """A slot, or the message, in the machine's graph."""

    id: str
    label: str
    #: Ids of those whose values it consumes.
    needs: list[str] = []


class Graph(msgspec.Struct, kw_only=True):
    """Which set slot consumes whose value; drawn as Mermaid text."""

    revision: int
    nodes: list[GraphNode]
    mermaid: str


class FunctionRef(msgspec.Struct, kw_only=True):
    """A slot function on its way: source text, ``module:name``, or cloudpickle."""

    kind: Literal["source", "reference", "cloudpickle"]
    #: Source text, or ``module:name``; for a cloudpickle the source text when it can be had.
    text: str | None = None
    data: bytes | None = None
    #: ``major.minor`` of the Python that made a cloudpickle.
    python: str | None = None


class CallResult(msgspec.Struct, kw_only=True):
    """What `call` computed: a record that was neither counted nor published."""

    oid: str
    #: JSON text ``[in, f0, …]``.
    text: str
    revision: int
    errored: bool


class PutResult(msgspec.Struct, kw_only=True):
    """What became of several puts."""

    #: One for each message that is in; the others, at the end, found no room.
    oids: list[str]
    refused: int = 0


class TrialRow(msgspec.Struct, kw_only=True):
    """What a function on trial made of one kept record."""

    oid: str
    #: JSON text of its value; of the described exception when ``errored``.
    text: str
    errored: bool
    duration_s: float


class Event(Displayable, msgspec.Struct, kw_only=True):
    """Something happened that changed a machine's state."""

    kind: EventKind
    time: float
    #: Counts from 1 within a run of the machine.
    number: int
    author: str | None = None
    data: dict[str, Any] = {}


class MachineBrief(msgspec.Struct, kw_only=True):
    """A machine in its kernel's state."""

    name: str
    run: str
    state: MachineStateName


class KernelInfo(msgspec.Struct, kw_only=True):
    """A kernel on the router: the content of its retained state, and a row of the list."""

    kernel_id: str
    name: str
    host: str
    state: KernelStateName
    #: Wamp session id of its bridge; a state of an older wamp session never replaces a newer one's.
    wamp_session: int | None = None
    pid: int | None = None
    #: Started by us: can be restarted and ended from here.
    ours: bool = False
    #: No kernel, but a process that runs machines: it has no cells and no output.
    headless: bool = False
    language: str = "python"
    language_version: str = ""
    protocol_version: str = ""
    cwd: str | None = None
    started_at: float | None = None
    restarts: int = 0
    reason: str | None = None
    machines: list[MachineBrief] = []
    #: When this state was taken.
    time: float = 0.0


class Discovery(msgspec.Struct, kw_only=True):
    """A kernel came, changed or went."""

    kind: Literal["came", "changed", "went"]
    kernel: KernelInfo


class ExecuteReply(msgspec.Struct, kw_only=True):
    """How an execution ended: the content of Jupyter's ``execute_reply``."""

    status: Literal["ok", "error", "aborted"]
    execution_count: int | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: list[str] = []
    user_expressions: dict[str, Any] = {}


class IopubMessage(msgspec.Struct, kw_only=True):
    """One message of the kernel's output: Jupyter's ``msg_type``, ``content`` and so on."""

    msg_type: str
    content: dict[str, Any]
    metadata: dict[str, Any] = {}
    buffers: list[bytes] = []
    #: ``msg_id`` of the request that caused it.
    parent_id: str | None = None
    seq: int = 0


class CompleteReply(msgspec.Struct, kw_only=True):
    """Jupyter's ``complete_reply``."""

    matches: list[str]
    cursor_start: int
    cursor_end: int
    metadata: dict[str, Any] = {}


class InspectReply(msgspec.Struct, kw_only=True):
    """Jupyter's ``inspect_reply``: a MIME bundle when found."""

    found: bool
    data: dict[str, Any] = {}


class IsCompleteReply(msgspec.Struct, kw_only=True):
    """Jupyter's ``is_complete_reply``."""

    status: Literal["complete", "incomplete", "invalid", "unknown"]
    indent: str = ""
