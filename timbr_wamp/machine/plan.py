"""Run one message through a revision's steps: the hot path, and its careful twin.

`compile_pass` writes a revision's steps out as one straight Python function: no loop, no lists of
arguments, identity slots only name their bytes again. The first slot that raises hands over to
`Careful`, which knows outcomes: who failed, and who is skipped since it consumes what was never
made. `Careful` also times slots; the inline executor sends the first message of each micro-batch
there, or one in `TIMED_EVERY`.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import orjson

from timbr_wamp.errors import UpstreamError
from timbr_wamp.machine.protocols import Clock, Entry, Failure, Finished
from timbr_wamp.values import JSON_OPTIONS, clean_text, to_json

if TYPE_CHECKING:
    from timbr_wamp.machine.slots import Revision, Step

#: The exception class that a skipped slot shows.
SKIPPED = UpstreamError.__name__
#: One in about so many messages is timed.
TIMED_EVERY = 32
#: A traceback is kept to its last so many characters and frames.
TRACEBACK_LIMIT, TRACEBACK_FRAMES = 6000, 30


class InlineExecutor:
    """One message after the other in the machine's own thread: the default."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._untimed = 0

    def process(self, entries: Sequence[Entry], current: Callable[[], Revision]) -> Iterator[Finished]:
        """Yield one `Finished` an entry, in order; see `timbr_wamp.machine.protocols.Executor`."""
        clock, timed = self._clock, self._untimed <= 0
        self._untimed = TIMED_EVERY if timed else self._untimed - len(entries)
        for entry in entries:
            revision = current()
            if timed:
                timed = False
                _, texts, failures = Careful(revision, entry[1], timed=True).run()
            else:
                _, texts, failures = revision.run(entry[1])
            yield entry, revision, texts, failures, clock()

    def close(self) -> None:
        """Nothing is held."""


_dumps = orjson.dumps

#: Values ``[in, f0, …]``, their JSON texts, and the failures.
Ran = tuple[list[Any], list[bytes], Sequence[Failure]]

_NO_FAILURES: Sequence[Failure] = ()


def run_plain(revision: Revision, message: object) -> Ran:
    """Run ``message`` through the slots as fast as they go."""
    return revision.run(message)


def compile_pass(revision: Revision) -> Callable[[object], Ran]:
    """Return a function that runs a message through the revision's steps, written out for them.

    For slots 0 and 2 of four, of which the second takes two values, the text is::

        def run(value):
            text = text_of(value)
            try: v0 = f0(value)
            except BaseException as error: return failed(0, error, [value], [text])
            try: t0 = dumps(v0, None, options)
            except Exception: t0 = to_json(v0)
            try: v2 = f2(v0, v0)
            except BaseException as error: return failed(1, error, [value, v0, v0], [text, t0, t0])
            ...
            return [value, v0, v0, v2, v2], [text, t0, t0, t2, t2], none
    """
    names: dict[str, Any] = {
        "text_of": text_of, "dumps": _dumps, "options": JSON_OPTIONS, "to_json": to_json, "none": _NO_FAILURES,
        "failed": partial(_failed, revision),
    }  # fmt: skip
    values, texts = ["value"] * (revision.lead + 1), ["text"] * (revision.lead + 1)
    lines = ["def run(value):", " text = text_of(value)"]
    for position, step in enumerate(revision.steps):
        number = step.slot.number
        names[f"f{number}"] = step.function
        lines += [
            f" try: v{number} = f{number}({', '.join(_given_names(step, values, texts))})",
            " except BaseException as error:",
            f"  return failed({position}, error, [{', '.join(values)}], [{', '.join(texts)}])",
            f" try: t{number} = dumps(v{number}, None, options)",
            f" except Exception: t{number} = to_json(v{number})",
        ]
        values += [f"v{number}"] * (step.carry + 1)
        texts += [f"t{number}"] * (step.carry + 1)
    lines.append(f" return [{', '.join(values)}], [{', '.join(texts)}], none")
    exec(compile("\n".join(lines), f"<pass of revision {revision.number}>", "exec"), names)
    run: Callable[[object], Ran] = names["run"]
    return run


def _given_names(step: Step, values: list[str], texts: list[str]) -> list[str]:
    arguments = values[::-1] if step.values < 0 else values[: -step.values - 1 : -1]
    return arguments + [f"{text}.decode()" for text in texts[: -step.texts - 1 : -1]] * (step.texts > 0)


def _failed(revision: Revision, position: int, error: BaseException, values: list[Any], texts: list[bytes]) -> Ran:
    careful = Careful(revision, values[0], values=values, texts=texts)
    careful.fail(revision.steps[position], error)
    return careful.run(position + 1)


def text_of(value: object) -> bytes:
    """Return the JSON text of ``value``, of any size: `to_json` without its limit for what is plain."""
    try:
        return _dumps(value, None, JSON_OPTIONS)
    except Exception:  # what has no JSON form
        return to_json(value)


def given(step: Step, values: list[Any], texts: list[bytes]) -> list[Any]:
    """Return what a step's function is called with: values newest first, then JSON texts."""
    arguments = values[::-1] if step.values < 0 else values[: -step.values - 1 : -1]
    if step.texts:
        arguments = arguments + [text.decode() for text in texts[: -step.texts - 1 : -1]]
    return arguments


class Careful:
    """One message's way with outcomes: failures, skips, durations."""

    def __init__(
        self,
        revision: Revision,
        message: object,
        *,
        values: list[Any] | None = None,
        texts: list[bytes] | None = None,
        broken: list[str | None] | None = None,
        timed: bool = False,
    ) -> None:
        lead = revision.lead + 1
        self._revision = revision
        self._timed = timed
        self._values = [message] * lead if values is None else values
        self._texts = [text_of(message)] * lead if texts is None else texts
        #: For each value the slot whose failure it stands for; None: a real value.
        self._broken: list[str | None] = [None] * len(self._values) if broken is None else broken
        self._failures: list[Failure] = []

    def run(self, start: int = 0) -> Ran:
        """Run the steps from number ``start`` on."""
        for step in self._revision.steps[start:]:
            consumed = self._broken if step.values < 0 else self._broken[len(self._broken) - step.values :]
            because = next((task for task in consumed if task is not None), None)
            if because is not None:
                self._skip(step, because)
                continue
            before = perf_counter()
            try:
                value = step.function(*given(step, self._values, self._texts))
            except BaseException as error:  # whatever a slot raises is the message's outcome
                self.fail(step, error)
                continue
            if self._timed:
                step.slot.tally.timings.append(perf_counter() - before)
            self._append(step, value, text_of(value), None)
        return self._values, self._texts, self._failures

    def fail(self, step: Step, error: BaseException) -> None:
        """Note that a step raised. A Ctrl-C in the main thread is the user's and goes on."""
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise error
        slot = step.slot
        text = _text_of(error)
        trace = traceback_text(error)
        self._failures.append((slot.number, slot.task, type(error).__qualname__, text, trace))
        self._append_exception(step, type(error).__qualname__, text, trace, slot.task)

    def _skip(self, step: Step, because: str) -> None:
        text = str(UpstreamError(step.slot.task, because))
        self._failures.append((step.slot.number, step.slot.task, SKIPPED, text, ""))
        self._append_exception(step, SKIPPED, text, None, because)

    def _append_exception(self, step: Step, name: str, text: str, trace: str | None, because: str) -> None:
        value = {"_exception": {"exc_class": name, "exc_value": text, "exc_tb": trace, "task": step.slot.task}}
        self._append(step, value, text_of(value), because)

    def _append(self, step: Step, value: object, text: bytes, because: str | None) -> None:
        count = step.carry + 1
        self._values.extend([value] * count)
        self._texts.extend([text] * count)
        self._broken.extend([because] * count)


def traceback_text(error: BaseException) -> str:
    """Return a slot's traceback without our own frame, bounded in frames and characters."""
    own = error.__traceback__
    inner = own.tb_next if own is not None else None
    try:
        lines = traceback.format_exception(type(error), error, inner, limit=-TRACEBACK_FRAMES)
    except Exception as failure:  # a foreign __str__ may raise anything
        lines = [f"{type(error).__qualname__} (its text raised {type(failure).__name__})"]
    return clean_text("".join(lines)[-TRACEBACK_LIMIT:])


def _text_of(error: BaseException) -> str:
    try:
        return clean_text(str(error)[:2000])
    except Exception as failure:  # a foreign __str__ may raise anything
        return f"<its text raised {type(failure).__name__}>"
