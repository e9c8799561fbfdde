"""The values that are sent over the wire, as msgspec structs.

Wire structs are defined in this module, in `timbr_wamp.contract.provenance` and in `timbr_wamp.contract.trials` only.

Times are UTC seconds since the epoch, durations are seconds, sizes are bytes. A JSON text is the
UTF-8 text of one JSON value, passed on unparsed.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

from timbr_wamp.contract.displayable import Displayable, Printer
from timbr_wamp.tables import timestamp

__all__ = [
    "Access",
    "Backpressure",
    "BatchHead",
    "BlockRow",
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
    "Interest",
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
    "ROUTER_LIMIT_BYTES",
    "ROW_LIMIT_BYTES",
    "SlotCounts",
    "SlotInfo",
    "SlotKind",
    "SourceOptions",
    "SourceStateName",
    "SourceStatus",
    "Status",
    "Metrics",
    "TrialOutcome",
    "TrialRow",
    "Verdict",
]

#: Largest payload of a call, result or event. The router's own limit is four times as large.
PAYLOAD_LIMIT_BYTES = 1024 * 1024
#: Limit of the router, as ``router-config/config.json`` sets it: it ends the connection that sends a larger message.
ROUTER_LIMIT_BYTES = 4 * 1024 * 1024
#: A record with a larger text is sent without it, with its size only; `record` fetches the text in parts.
ROW_LIMIT_BYTES = 256 * 1024

MachineStateName = Literal["idle", "running", "paused", "draining", "stopped", "failed"]
KernelStateName = Literal["starting", "idle", "busy", "restarting", "dead", "offline"]
SourceStateName = Literal["none", "waiting", "reading", "restarting", "exhausted", "failed"]
#: What happens to a message when one of its slots raised and no retries are left.
Verdict = Literal["record", "default", "drop", "dead_letter", "pause", "stop"]
#: What a source does while the queue is full.
Backpressure = Literal["wait", "drop_new", "drop_old", "sample"]
OnExhausted = Literal["keep", "stop", "restart"]
#: How what a trial gives for a message differs from what it has now.
TrialOutcome = Literal["same", "changed", "new_error", "mended", "other_error", "skipped"]
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


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Access(enum.Enum):
    """Who may: *read* any viewer, *operate* operators and admins, *admin* admins; *host* bridges and hosts only.

    Bridges and hosts may subscribe to what is *read*, and call nothing but what is *host*.
    """

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    HOST = "host"


class Policy(msgspec.Struct, kw_only=True, frozen=True):
    """What happens to a message when a slot raises: first the retries, then the verdict ``on_error``.

    ``record``: the failure is recorded and slots that consume the value are skipped. ``default``:
    the slot's value is `default`. ``drop``, ``dead_letter``: no later slot runs; the message is
    recorded as dropped, or as errored for later inspection. ``pause``, ``stop``: the machine pauses
    or stops, and the message returns to the head of the queue, to run again from the first slot.
    """

    on_error: Verdict = "record"
    #: Number of further tries in the same attempt.
    retries: int = 0
    #: Wait before the first retry; it doubles with each retry, up to ``backoff_max_s``.
    backoff_s: float = 0.0
    backoff_max_s: float = 60.0
    #: The slot's value with ``on_error="default"``.
    default: Any = None
    #: Time limit of one try; None means no limit.
    timeout_s: float | None = None


class PolicyCounts(msgspec.Struct, kw_only=True):
    """How often policies took effect since the machine was created. For drops see `Status.dropped`."""

    #: Further tries of slots.
    retries: int = 0
    #: Failures after which a retry succeeded.
    mended: int = 0
    defaults: int = 0
    dead_letters: int = 0
    #: Pauses and stops by a policy. The failed message returned to the queue each time.
    pauses: int = 0
    stops: int = 0
    timeouts: int = 0
    #: Calls that timed out and still run in their threads.
    abandoned: int = 0


class SourceOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How a source is read."""

    #: What to do while the queue is full: wait, drop the new or the oldest message, or queue one in ``sample_every``.
    policy: Backpressure = "wait"
    sample_every: int = 10
    #: When the source is exhausted: keep running, stop the machine when all is processed, or restart the source.
    on_exhausted: OnExhausted = "keep"
    #: A source that yields nothing for this long counts as exhausted; None means no limit.
    idle_timeout_s: float | None = None
    #: Most consecutive restarts of a source that fails; reading a message resets the count.
    restarts: int = 0
    #: Wait before the first restart; it doubles with each restart, up to ``backoff_max_s``.
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0


class SourceStatus(msgspec.Struct, kw_only=True):
    """State and counters of a machine's source."""

    state: SourceStateName = "none"
    #: Messages read since the source was set.
    count: int = 0
    #: Expected number of messages; None when unknown.
    total: int | None = None
    #: Remaining seconds at the rate of the last 10 s; None when total or rate are unknown.
    eta_s: float | None = None
    #: ``Class: text`` of the last error, which ended or restarted the source.
    error: str | None = None
    #: Messages dropped by the source's policy; included in the machine's ``dropped``.
    dropped: int = 0
    #: Number of restarts.
    restarts: int = 0
    options: SourceOptions = SourceOptions()


class Progress(Displayable, msgspec.Struct, kw_only=True):
    """Progress of a machine with its source."""

    #: Messages finished since the source was set.
    done: int
    #: Expected number of messages; None when unknown.
    total: int | None = None
    #: 0 to 100; None without a total.
    percentage: float | None = None
    errored: int = 0
    #: Records per second over the last 10 s.
    rate_per_s: float = 0.0
    eta_s: float | None = None
    state: MachineStateName = "idle"
    #: The source is exhausted and all its messages are recorded.
    complete: bool = False


class SlotCounts(msgspec.Struct, kw_only=True):
    """Counters and timings of a slot. Timings are sampled, one message in 32."""

    slot: int
    #: Calls of the slot's function, retries included, for messages whose attempt has ended.
    calls: int = 0
    #: Failures that were recorded; failures with a successful retry or a default value are counted separately.
    errors: int = 0
    skipped: int = 0
    retries: int = 0
    mended: int = 0
    defaults: int = 0
    timeouts: int = 0
    p50_s: float | None = None
    p99_s: float | None = None


class Status(Displayable, msgspec.Struct, kw_only=True):
    """A snapshot of a machine. ``put == processed + errored + dropped + queue_size + in_flight`` always holds."""

    name: str
    #: Id of the current run: record numbers are unique within a run.
    run: str
    state: MachineStateName
    #: Reason of the state ``failed``, or of ``stopped`` when the machine stopped by itself.
    reason: str | None = None
    #: The machine is to process messages and its thread is alive. A stalled machine sends an event.
    running: bool = False
    put: int = 0
    processed: int = 0
    errored: int = 0
    dropped: int = 0
    #: Puts that were refused; not included in ``put``.
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
    #: When this snapshot was taken.
    time: float = 0.0
    source: SourceStatus = msgspec.field(default_factory=SourceStatus)
    slots: list[SlotCounts] = []
    #: Messages that wait for a retry; included in ``in_flight``.
    retrying: int = 0
    policies: PolicyCounts = msgspec.field(default_factory=PolicyCounts)
    #: Policy of slots without a policy of their own.
    on_error: Policy = Policy()
    #: Name of the event handler.
    handler: str = "BaseEventHandler"
    executor: str = "inline"
    #: Most messages that may be in flight at once, if the slots allow it.
    concurrency: int = 1
    #: Exceptions raised by hooks, callbacks, sinks and event handlers.
    hook_failures: int = 0
    #: Events that were dropped because hooks and callbacks were too slow.
    events_dropped: int = 0

    def legacy(self) -> dict[str, Any]:
        """Return the status of the timbr-machine package, with its keys. Times are RFC 3339."""
        return {
            "CurrentOID": self.current_oid,
            "LastOID": self.last_oid,
            "Processed": self.processed,
            "QueueSize": self.queue_size,
            "CurrentTime": timestamp(self.time),
        }

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))  # IPython shows the card; repr() stays the struct's


class SlotInfo(Displayable, msgspec.Struct, kw_only=True):
    """One slot of the newest revision."""

    slot: int
    name: str | None = None
    #: The slot is unset: it passes its value on and calls nothing.
    identity: bool = True
    kind: SlotKind = "identity"
    #: Name of the function: ``module.qualname``, or the class of an object.
    function: str | None = None
    #: Source text; None when it is not available.
    source: str | None = None
    #: Number of values that the function gets, of f[i-1], …, f0, in; -1 means all.
    values: int = 0
    #: Number of JSON texts that follow the values.
    texts: int = 0
    #: Revision that assigned the function, and its author.
    revision: int = 0
    author: str | None = None
    #: The slot's own policy; None means the machine's.
    policy: Policy | None = None
    counts: SlotCounts | None = None


class RevisionInfo(Displayable, msgspec.Struct, kw_only=True):
    """A revision of the slot table."""

    number: int
    time: float
    author: str | None = None
    #: The change that made it: ``set 0``, ``delete 2``, ``rollback to 3``.
    change: str = ""
    #: Why, in the author's words.
    reason: str | None = None
    #: Names of the functions, one per slot; None for an unset slot.
    functions: list[str | None] = []


class RecordMeta(msgspec.Struct, kw_only=True):
    """Metadata of a record; sent as JSON in the third frame of its message."""

    run: str
    seq: int
    attempt: int
    revision: int
    received_at: float
    finished_at: float
    errored: bool
    #: A policy dropped the message.
    dropped: bool = False
    #: Effects of policies by slot: ``{"f1": "retry 2"}``, ``"default"``, ``"drop"``, ``"dead_letter"``.
    policies: dict[str, str] | None = None
    #: Size of the text, when it was too large to send; else None.
    text_bytes: int | None = None


class RecordRow(msgspec.Struct, array_like=True):
    """A record on the wire: ``[seq, oid, text, meta]``."""

    seq: int
    oid: str
    #: JSON text ``[in, f0, …]``; None when it is too large: ``meta`` then has ``text_bytes``.
    text: str | None
    #: JSON text of a `RecordMeta`.
    meta: str


class BlockRow(msgspec.Struct, array_like=True):
    """A record in the block of a `RecordsBatch`: ``[seq, oid, values, meta]``.

    ``values`` are those that were made, see the batch's ``layout``. They are null when they are too large together:
    ``meta`` then has ``text_bytes``, and `record` returns them.
    """

    seq: int
    oid: str
    values: list[Any] | None
    meta: RecordMeta


class RecordsBatch(msgspec.Struct, kw_only=True):
    """Consecutive records, in one text.

    ``block`` is the JSON text of the list of all ``count`` rows, each of them a `BlockRow`. An unset slot passes a
    value on, which is written once: ``layout`` says for how many of a record's positions ``in, f0, f1, …`` each of its
    ``values`` stands; when it is empty, for one each.
    """

    run: str
    first_seq: int
    last_seq: int
    count: int
    layout: list[int]
    block: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> RecordsBatch:
        """Return consecutive ones of these records."""
        start, stop, _ = part.indices(self.count)
        if (start, stop) == (0, self.count):
            return self
        texts = _split(self.block)[start:stop]
        first, last = self.first_seq + start, self.first_seq + start + len(texts) - 1
        block = (b"[%b]" % b",".join(texts)).decode()
        return RecordsBatch(
            run=self.run, first_seq=first, last_seq=last, count=len(texts), layout=self.layout, block=block
        )

    @property
    def size_bytes(self) -> int:
        """About the size of the text in UTF-8."""
        return len(self.block) * (1 if self.block.isascii() else 3)


class RecordsPage(msgspec.Struct, kw_only=True):
    """Kept records after a given number, oldest first.

    ``first_available`` is the number of the oldest kept record; ``last_seq + 1`` when none is kept. Each batch follows
    the one before; a new one begins where the layout changes.
    """

    run: str
    first_available: int
    last_seq: int
    batches: list[RecordsBatch]


class BatchHead(msgspec.Struct, array_like=True):
    """Second frame of a batch on a machine's own publishing socket, as JSON; bridges read it.

    One in ``sampled`` records is in the batch; 1: all of them. ``sent_bytes`` counts what was sent to this listener up
    to and including this batch; it is to be acknowledged when ``acknowledge`` is set, and the batch takes no memory
    any more.
    """

    run: str
    first_seq: int
    last_seq: int
    count: int
    layout: list[int]
    sampled: int
    sent_bytes: int
    acknowledge: bool


class ErrorRow(Displayable, msgspec.Struct, kw_only=True):
    """A failure of a slot in one attempt at a message."""

    run: str
    #: Number of the record; 0 when there is none, because the message returned to the queue by a pause or stop.
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
    #: JSON text of the message, at most 2000 characters.
    input: str
    #: Nothing is left to do: a later try or attempt at the same message succeeded, or the message was dropped later.
    resolved: bool = False
    #: The verdict that was applied, or ``retry`` when a retry succeeded.
    policy: str = "record"
    #: Number of failed tries.
    tries: int = 1
    #: ``file:line`` that raised the exception.
    where: str = ""


class ErrorGroup(Displayable, msgspec.Struct, kw_only=True):
    """Failures of the same slot, exception class and line."""

    slot: int
    task: str
    exc_class: str
    #: ``file:line`` that raises the exception.
    where: str
    count: int = 0
    #: Failures per minute over the last 10 minutes, or since the first one if that is more recent.
    rate_per_min: float = 0.0
    first_oid: str = ""
    last_oid: str = ""
    first_time: float = 0.0
    last_time: float = 0.0
    #: Text, message (JSON text, at most 2000 characters) and traceback of the last failure.
    exc_value: str = ""
    input: str = ""
    exc_tb: str = ""
    #: Number of failures by the policy that was applied.
    policies: dict[str, int] = {}
    #: Messages whose newest attempt has this failure and that no policy handled.
    open: int = 0
    #: Messages were open, and none is any more: each succeeded, was dropped or failed elsewhere.
    resolved: bool = False

    @property
    def key(self) -> str:
        """The text that names the group in calls: ``f1:ValueError:file:line``."""
        return f"f{self.slot}:{self.exc_class}:{self.where}"


class GraphNode(msgspec.Struct, kw_only=True):
    """A node of the machine's graph: a slot, or the message."""

    id: str
    label: str
    #: Ids of the nodes whose values it consumes.
    needs: list[str] = []


class Graph(msgspec.Struct, kw_only=True):
    """Which slot consumes the value of which, for slots with a function; also as Mermaid text."""

    revision: int
    nodes: list[GraphNode]
    mermaid: str


class FunctionRef(msgspec.Struct, kw_only=True):
    """A function that is sent to a machine: as source text, as ``module:name``, or as cloudpickle."""

    kind: Literal["source", "reference", "cloudpickle"]
    #: Source text, or ``module:name``; for a cloudpickle the source text if it is available.
    text: str | None = None
    data: bytes | None = None
    #: ``major.minor`` version of the Python that made the cloudpickle.
    python: str | None = None


class CallResult(msgspec.Struct, kw_only=True):
    """Result of `call`: a record that was neither counted nor published."""

    oid: str
    #: JSON text ``[in, f0, …]``.
    text: str
    revision: int
    errored: bool


class PutResult(Displayable, msgspec.Struct, kw_only=True):
    """Result of `put_many`."""

    #: Ids of the queued messages, in order. The remaining messages found no space.
    oids: list[str]
    refused: int = 0

    def __str__(self) -> str:
        return f"{len(self.oids):,} messages queued, {self.refused:,} refused: there was no room for them"

    def __repr__(self) -> str:
        shown = ", ".join([*map(repr, self.oids[:3]), *(["…"] if len(self.oids) > 3 else [])])
        return f"PutResult(oids=<{len(self.oids):,}: {shown}>, refused={self.refused})"


class TrialRow(Displayable, msgspec.Struct, kw_only=True):
    """Result of a trial for one message. The fields from ``outcome`` on are those of a comparison."""

    oid: str
    #: JSON text of its value; when ``errored``, of the exception's description.
    text: str
    errored: bool
    duration_s: float
    #: JSON text of the message.
    input: str = "null"
    #: JSON text of what the record has for this slot; None when its slot table was shorter. In a comparison: of what
    #: the present function, or the other table, gives.
    before: str | None = None
    #: How it differs from ``before``.
    outcome: TrialOutcome | None = None
    #: The differences, by their places in the JSON: ``.mag: 3.2 → 3.4``.
    changes: list[str] = []
    #: Seconds that the present function took; None: it was not run.
    before_s: float | None = None


class Metrics(msgspec.Struct, kw_only=True):
    """A machine's counters over time, as lists of one length: one sample about every ``interval_s`` seconds.

    The last sample is of now. Counts only grow within a run; differences of two are what happened between them.
    """

    run: str
    interval_s: float
    #: UTC seconds.
    time: list[float]
    processed: list[int]
    errored: list[int]
    dropped: list[int]
    queue_size: list[int]


class Event(Displayable, msgspec.Struct, kw_only=True):
    """A change of a machine's state."""

    kind: EventKind
    time: float
    #: Counts from 1 within a run of the machine.
    number: int
    author: str | None = None
    data: dict[str, Any] = {}


class MachineBrief(msgspec.Struct, kw_only=True):
    """Summary of a machine in the state of its kernel."""

    name: str
    run: str
    state: MachineStateName


class KernelInfo(msgspec.Struct, kw_only=True):
    """A kernel on the router: payload of its retained state, and an item of the list of kernels."""

    kernel_id: str
    name: str
    host: str
    state: KernelStateName
    #: Wamp session id of its bridge. A state from an older wamp session never replaces one from a newer session.
    wamp_session: int | None = None
    pid: int | None = None
    #: timbr_wamp started the kernel and can restart and end it.
    managed: bool = False
    #: A process that runs machines without a kernel: it has no cells and no output.
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
    """A kernel was added, changed or removed."""

    kind: Literal["came", "changed", "went"]
    kernel: KernelInfo


class Interest(msgspec.Struct, kw_only=True):
    """The topics of a kernel that have subscribers, exact ones and patterns, as the node component tells its bridge."""

    kernel_id: str
    #: Grows with each statement about any kernel; the highest one is the newest.
    number: int
    #: Names relative to the kernel, such as ``iopub`` or ``machine.records``.
    topics: list[str]


class ExecuteReply(msgspec.Struct, kw_only=True):
    """Content of Jupyter's ``execute_reply``."""

    status: Literal["ok", "error", "aborted"]
    execution_count: int | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: list[str] = []
    user_expressions: dict[str, Any] = {}


class IopubMessage(msgspec.Struct, kw_only=True):
    """An iopub message of the kernel, with Jupyter's ``msg_type``, ``content``, ``metadata`` and ``buffers``."""

    msg_type: str
    content: dict[str, Any]
    metadata: dict[str, Any] = {}
    buffers: list[bytes] = []
    #: ``msg_id`` of the request that caused it.
    parent_id: str | None = None
    seq: int = 0


class CompleteReply(msgspec.Struct, kw_only=True):
    """Content of Jupyter's ``complete_reply``."""

    matches: list[str]
    cursor_start: int
    cursor_end: int
    metadata: dict[str, Any] = {}


class InspectReply(msgspec.Struct, kw_only=True):
    """Content of Jupyter's ``inspect_reply``: a MIME bundle when the name was found."""

    found: bool
    data: dict[str, Any] = {}


class IsCompleteReply(msgspec.Struct, kw_only=True):
    """Content of Jupyter's ``is_complete_reply``."""

    status: Literal["complete", "incomplete", "invalid", "unknown"]
    indent: str = ""
