"""The table of ``%wamp`` verbs and their arguments, used by the parser, the completion and the tests.

Each verb is carried out by the method with its name in `timbr_wamp.magic.verbs` and documented in
``docs/reference/magics.md``.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from timbr_wamp.contract.policy_syntax import parse_policy
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.names import LINK_ROLES, begins_python, slot_key

#: Kind of values that Tab completes for an argument.
Offer = Literal["kernel", "slot", "target", "policy", "handler", "topic", "name", "verb", None]

#: Word for the machine in place of a slot.
MACHINE = "machine"

#: Short names of the topics of a kernel and of a machine.
KERNEL_TOPICS = ("state", "iopub")
MACHINE_TOPICS = ("machine", "records", "status", "event", "error")
TOPICS = (*MACHINE_TOPICS, *KERNEL_TOPICS)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a verb: an option if its name starts with ``--``, else positional."""

    name: str
    help: str
    #: Converts the text to the value; None for a switch.
    convert: Callable[[str], object] | None = str
    required: bool = True
    default: object = None
    offer: Offer = None
    #: The argument takes all following words, possibly none.
    many: bool = False

    @property
    def is_option(self) -> bool:
        """Whether it is an option. Options are never required."""
        return self.name.startswith("--")


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of ``%wamp``."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    #: Description of the Python text at the end of the line; None if the verb takes none.
    code: str | None = None
    #: That text is a cell of IPython, in which ``#`` may be anything.
    takes_cell: bool = False

    @property
    def options(self) -> tuple[Argument, ...]:
        """The options."""
        return tuple(argument for argument in self.arguments if argument.is_option)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The positional arguments, in order."""
        return tuple(argument for argument in self.arguments if not argument.is_option)


def count(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def whole(text: str) -> int:
    """Parse a number of at least 0."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Parse a duration in seconds, greater than 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def slot(text: str) -> int | str:
    """Parse which slot is meant."""
    if begins_python(text):
        raise ArgumentTypeError(f"is missing: {text!r} begins the Python text; write a slot's number or name before it")
    return slot_key(text)


def policy(text: str) -> object:
    """Parse a policy from one text with arguments separated by commas."""
    try:
        return parse_policy(text)
    except InvalidArgument as error:
        raise ArgumentTypeError(str(error)) from None  # argparse shows the text of this error


def _last(text: str) -> str:
    """Parse which error is meant; there is one."""
    if text != "last":
        raise ValueError(text)
    return text


_last.__name__ = "error (last)"
whole.__name__ = "number (0 or more)"
count.__name__ = "count (1 or more)"  # argparse names the converter in its message
seconds.__name__ = "duration in seconds"


def _optional(name: str, help: str, **more: object) -> Argument:
    return Argument(name, help, required=False, **more)  # type: ignore[arg-type]


def _switch(name: str, help: str) -> Argument:
    return Argument(name, help, convert=None, required=False, default=False)


_SLOT = Argument("slot", "number or name of the slot", slot, offer="slot")
_LIMIT = _optional("n", "how many; 10 by default", convert=count, default=10)
_REASON = _optional("--reason", "why, kept with the revision; in quotes")
_GROUP = _optional("--group", "an error group: its slot, and after colons its exception class and line")
_LAST = _optional("--last", "the newest so many messages", convert=count)
_TIMEOUT = _optional("--timeout-s", "timeout in seconds; no limit by default", convert=seconds)

_VERBS = (
    Verb(
        "token",
        "store a token for the next connect; prompts for it if not given",
        (_optional("token", "<name>.<secret>"),),
    ),
    Verb(
        "connect",
        "connect to a router; a matching open connection is kept",
        (
            _optional("url", "ws://…, wss://… or rs+unix:///path; the local router by default"),
            _optional("--token", "<name>.<secret>; `%wamp token` is safer"),
            _optional("--realm", "the router's realm"),
            _switch("--reconnect", "close an open connection first"),
        ),
    ),
    Verb(
        "share",
        "put this notebook's kernel and its machines on the router, and show a link to the page",
        (
            _optional("--name", "the kernel's name; the notebook's by default"),
            _optional("--role", f"what the link allows: {', '.join(LINK_ROLES)}; admin by default"),
            _switch("--up", "start a router if none runs; it keeps running"),
        ),
    ),
    Verb("unshare", "take this notebook's kernel off the router; its machines go on"),
    Verb("disconnect", "end subscriptions and close the connection"),
    Verb(
        "list",
        "list the kernels on the router",
        (_switch("--details", "all details of each"), _switch("--raw", "their URI prefixes, as a plain list")),
    ),
    Verb(
        "select",
        "select the kernel for the other verbs and %%wamp cells",
        (
            _optional("kernel", "id, name, or the start of one", offer="kernel"),
            _optional("--machine", "one of its machines, if it has several"),
        ),
    ),
    Verb("status", "show connection, kernel, machine and failed callbacks"),
    Verb(
        "subscribe",
        "call a function of this notebook for each event of a topic",
        (
            _optional("topic", f"{', '.join(TOPICS)}, or a whole URI", default="machine", offer="topic"),
            Argument("callback", "name of the function; looked up for each event", offer="name"),
        ),
    ),
    Verb(
        "unsubscribe",
        "end subscriptions; all of them without a topic",
        (
            _optional("topic", "the topic as it was subscribed to", offer="topic"),
            _optional("callback", "end this function's subscription only", offer="name"),
        ),
    ),
    Verb("interrupt", "interrupt the cell that runs on the kernel"),
    Verb("restart", "restart the kernel; it keeps its id"),
    Verb("slots", "show the machine's slots"),
    Verb(
        "set",
        "assign a function to a slot, also while the machine runs",
        (
            _SLOT,
            _optional("--name", "name the slot"),
            _optional(
                "--policy",
                "what happens to a message when it raises, such as drop,retries=3",
                convert=policy,
                offer="policy",
            ),
            _REASON,
        ),
        code="a function's name, source text such as `lambda x: x**2`, or `module:name`",
    ),
    Verb("delete", "unset a slot", (_SLOT,)),
    Verb(
        "policy",
        "set what happens to a message when a slot raises; show it without arguments",
        (
            Argument(
                "slot",
                f"number or name of the slot, or `{MACHINE}` for slots without a policy of their own",
                slot_key,
                offer="target",
            ),
            _optional("words", "a verdict, name=value …, or none", many=True, offer="policy"),
        ),
    ),
    Verb(
        "handler",
        "set the event handler; show it without arguments",
        (
            _optional("name", "name of the handler", offer="handler"),
            _optional("options", "name=value …", many=True),
        ),
    ),
    Verb("revisions", "show the kept revisions of the slot table"),
    Verb("rollback", "restore an earlier slot table", (Argument("number", "number of the revision", whole), _REASON)),
    Verb(
        "compare",
        "show how two revisions of the slot table differ",
        (Argument("a", "number of a revision", whole), Argument("b", "number of another one", whole), _LAST),
    ),
    Verb(
        "trial",
        "run a function beside the one in a slot on recent messages, and show what differs; nothing changes",
        (_SLOT, _LAST, _GROUP),
        code="a function's name, source text such as `lambda x: x**2`, or `module:name`",
    ),
    Verb(
        "put",
        "queue a message; shows its id",
        (_optional("--oid", "id of the message; a message with a known id is not queued again"),),
        code="JSON, or a Python expression that is evaluated here",
    ),
    Verb(
        "call",
        "run a message through the slots without counting or publishing it",
        code="JSON, or a Python expression that is evaluated here",
    ),
    Verb("start", "start processing"),
    Verb("pause", "pause after the current message; queued messages stay queued"),
    Verb("resume", "continue after a pause"),
    Verb(
        "stop",
        "stop processing; queued messages are kept",
        (
            _switch("--drain", "process queued messages first"),
            _optional("--timeout-s", "timeout in seconds; 5 by default", convert=seconds, default=5.0),
        ),
    ),
    Verb(
        "progress",
        "show the machine's progress with its source",
        (_switch("--wait", "show a bar until everything is processed"), _TIMEOUT),
    ),
    Verb("records", "show the newest records", (_LIMIT,)),
    Verb(
        "tap",
        "return a live list of the newest values of a slot",
        (
            _optional("label", "in, f0 …, or a slot's name or number", default="in", offer="slot"),
            _optional("n", "how many; 50 by default", convert=count, default=50),
        ),
    ),
    Verb("errors", "show the newest failures of slots", (_LIMIT,)),
    Verb("groups", "show failures by slot, exception class and line", (_LIMIT,)),
    Verb(
        "retry",
        "queue failed messages again; all unresolved ones by default",
        (
            _GROUP,
            _optional("--canary", "so many first; the rest only when they have passed", convert=count),
            _optional("oids", "ids of messages", many=True),
        ),
    ),
    Verb(
        "lookup",
        "show what became of a message: each attempt, with each slot's value or error",
        (Argument("oid", "the message's id"),),
    ),
    Verb(
        "replay",
        "queue messages again, failed or not, each as its next attempt",
        (
            _GROUP,
            _switch("--trial", "run them beside what is recorded; count and record nothing"),
            _optional("--revision", "in a trial, the revision whose slots are used", convert=whole),
            _optional("oids", "ids of messages", many=True),
        ),
    ),
    Verb("plot", "draw which slot consumes the value of which"),
    Verb(
        "execute",
        "run code on the kernel, as a %%wamp cell does",
        (_optional("--kernel", "a kernel other than the selected one", offer="kernel"), _TIMEOUT),
        code="Python code for the kernel",
        takes_cell=True,
    ),
    Verb(
        "debug",
        "show the whole traceback of the last error of this notebook",
        (_optional("what", "`last`", convert=_last, default="last"),),
    ),
    Verb("help", "list the verbs, or explain one", (_optional("verb", "the verb to explain", offer="verb"),)),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _VERBS}

#: Verbs of juno-magic without a counterpart, and what to do instead.
REPLACED: dict[str, str] = {
    "start_bridge": "use `%wamp share`: it starts the bridge as a separate process, which answers while a cell runs",
    "stop_bridge": "use `%wamp unshare`",
}
