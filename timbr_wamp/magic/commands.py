"""The table of ``%wamp`` verbs: their arguments and words, read by the parser, Tab and the tests.

Pure data. What a verb does stands in `timbr_wamp.magic.verbs`, in the method of its name; what
people read about it in ``docs/reference/magics.md``.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from timbr_wamp.contract.policy_syntax import parse_policy
from timbr_wamp.errors import InvalidArgument

#: What Tab offers for an argument's value.
Offer = Literal["kernel", "slot", "target", "policy", "handler", "topic", "name", "verb", None]

#: Stands for the machine where a slot could.
MACHINE = "machine"

#: Short names of topics, and whether they belong to the kernel or to its machine.
KERNEL_TOPICS = ("state", "iopub")
MACHINE_TOPICS = ("machine", "records", "status", "event", "error")
TOPICS = (*MACHINE_TOPICS, *KERNEL_TOPICS)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb: an option when its name begins with ``--``, else positional."""

    name: str
    help: str
    #: Makes the value from the text; None for an option that is a mere switch.
    convert: Callable[[str], object] | None = str
    required: bool = True
    default: object = None
    offer: Offer = None
    #: It takes all words that follow, none too.
    many: bool = False

    @property
    def is_option(self) -> bool:
        """It is named on the line, and never required."""
        return self.name.startswith("--")


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of ``%wamp``."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    #: What the rest of the line is when it is Python and not words; None: all words.
    code: str | None = None

    @property
    def options(self) -> tuple[Argument, ...]:
        """Its arguments that begin with ``--``."""
        return tuple(argument for argument in self.arguments if argument.is_option)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """Its other arguments, in their order."""
        return tuple(argument for argument in self.arguments if not argument.is_option)


def slot_key(text: str) -> int | str:
    """Return a slot's number, or its name when the text is none.

    >>> slot_key("2"), slot_key("clean")
    (2, 'clean')
    """
    return int(text) if text.lstrip("-").isdigit() else text


def count(text: str) -> int:
    """Return a number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Return a duration above 0, in seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def policy(text: str) -> object:
    """Return the policy that one text says, its words joined by commas."""
    try:
        return parse_policy(text)
    except InvalidArgument as error:
        raise ArgumentTypeError(str(error)) from None  # its text is the one that people read


count.__name__ = "count (1 or more)"  # argparse names the converter in its message
seconds.__name__ = "duration in seconds"


def _optional(name: str, help: str, **more: object) -> Argument:
    return Argument(name, help, required=False, **more)  # type: ignore[arg-type]


def _switch(name: str, help: str) -> Argument:
    return Argument(name, help, convert=None, required=False, default=False)


_SLOT = Argument("slot", "number or name of the slot", slot_key, offer="slot")
_LIMIT = _optional("n", "how many, 10 when not given", convert=count, default=10)
_TIMEOUT = _optional("--timeout-s", "give up after so many seconds; no limit when not given", convert=seconds)

_VERBS = (
    Verb(
        "token",
        "keep a token for the next connect; asks for it when not given",
        (_optional("token", "<name>.<secret>"),),
    ),
    Verb(
        "connect",
        "connect to a router; an open connection that fits stays",
        (
            _optional("url", "ws://…, wss://… or rs+unix:///path; the local router when not given"),
            _optional("--token", "<name>.<secret>; better kept with `%wamp token`"),
            _optional("--realm", "the router's realm"),
            _switch("--reconnect", "close an open connection first"),
        ),
    ),
    Verb("disconnect", "end subscriptions and close the connection"),
    Verb(
        "list",
        "list the kernels on the router",
        (_switch("--details", "all that is known of each"), _switch("--raw", "their URI prefixes, as a plain list")),
    ),
    Verb(
        "select",
        "choose the kernel that the other verbs and %%wamp cells go to",
        (
            _optional("kernel", "id, name, or the beginning of an id", offer="kernel"),
            _optional("--machine", "one of its machines, when it has several"),
        ),
    ),
    Verb("status", "show connection, kernel, machine and failed callbacks"),
    Verb(
        "subscribe",
        "call a function of this notebook for each event of a topic",
        (
            _optional("topic", f"{', '.join(TOPICS)}, or a whole URI", default="machine", offer="topic"),
            Argument("callback", "name of the function; looked up anew for each event", offer="name"),
        ),
    ),
    Verb(
        "unsubscribe",
        "end subscriptions; all of them when no topic is given",
        (
            _optional("topic", "as it was subscribed to", offer="topic"),
            _optional("callback", "only this function", offer="name"),
        ),
    ),
    Verb("interrupt", "interrupt the cell that runs on the kernel"),
    Verb("restart", "restart the kernel; its id stays"),
    Verb("slots", "show the machine's slots"),
    Verb(
        "set",
        "put a function in a slot, running or not",
        (
            _SLOT,
            _optional("--name", "name the slot"),
            _optional(
                "--policy",
                "what becomes of a message when it raises, such as drop,retries=3",
                convert=policy,
                offer="policy",
            ),
        ),
        code="a function's name, source text such as `lambda x: x**2`, or `module:name`",
    ),
    Verb("delete", "make a slot identity again", (_SLOT,)),
    Verb(
        "policy",
        "say what becomes of a message when a slot raises; show it when nothing is said",
        (
            Argument(
                "slot",
                f"number or name of the slot, or `{MACHINE}`: all without one of their own",
                slot_key,
                offer="target",
            ),
            _optional("words", "a verdict, name=value …, or none", many=True, offer="policy"),
        ),
    ),
    Verb(
        "handler",
        "choose the event handler; show it when none is named",
        (
            _optional("name", "name of the handler", offer="handler"),
            _optional("options", "name=value …", many=True),
        ),
    ),
    Verb("revisions", "show the kept states of the slot table"),
    Verb("rollback", "bring back an earlier slot table", (Argument("number", "number of the revision", count),)),
    Verb(
        "put",
        "queue a message; gives its id",
        (_optional("--oid", "id of the message; one that is known is not put twice"),),
        code="a Python expression, evaluated here",
    ),
    Verb(
        "call",
        "run a message through the slots; counts and publishes nothing",
        code="a Python expression, evaluated here",
    ),
    Verb("start", "start processing"),
    Verb("pause", "stop after the message under way; the rest waits"),
    Verb("resume", "go on after a pause"),
    Verb(
        "stop",
        "stop processing; what waits is kept",
        (
            _switch("--drain", "finish what waits first"),
            _optional("--timeout-s", "how long to wait, 5 when not given", convert=seconds, default=5.0),
        ),
    ),
    Verb(
        "progress",
        "show how far the machine is with its source",
        (_switch("--wait", "show a bar until nothing is left to do"), _TIMEOUT),
    ),
    Verb("records", "show the newest records", (_LIMIT,)),
    Verb(
        "tap",
        "give a live list of one slot's newest values",
        (
            _optional("label", "in, f0 …, or a slot's name or number", convert=slot_key, default="in", offer="slot"),
            _optional("n", "how many, 50 when not given", convert=count, default=50),
        ),
    ),
    Verb("errors", "show the newest failures of slots", (_LIMIT,)),
    Verb("groups", "show failures by slot, exception class and line", (_LIMIT,)),
    Verb(
        "retry",
        "put messages that failed again; all unresolved ones when none is named",
        (_optional("oids", "ids of messages", many=True),),
    ),
    Verb("plot", "draw which slot consumes whose value"),
    Verb(
        "execute",
        "run code on the kernel, as a %%wamp cell does",
        (_optional("--kernel", "another kernel than the selected one", offer="kernel"), _TIMEOUT),
        code="Python code for the kernel",
    ),
    Verb("help", "show the verbs, or one of them", (_optional("verb", "the one to show", offer="verb"),)),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _VERBS}

#: Verbs of juno-magic that have no counterpart here, and the sentence that says what to do instead.
REPLACED: dict[str, str] = {
    "start_bridge": "run `timbr-wamp bridge {connection_file}` in a terminal of this computer: the bridge is a process "
    "beside the kernel, so that it answers while a cell runs and outlives this notebook's page",
    "stop_bridge": "end the `timbr-wamp bridge` process of this kernel with Ctrl-C in its terminal",
}
