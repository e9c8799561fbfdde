"""Event handlers: what each answers, what the debuggers report, and how one is chosen."""

from __future__ import annotations

import threading

import pytest
from machine_kit import LIMIT_S
from wait_kit import wait_until

import timbr_wamp
from timbr_wamp import plugins
from timbr_wamp.contract import ErrorRow, Policy
from timbr_wamp.errors import InvalidArgument, UnknownPlugin
from timbr_wamp.machine.events import error_report, handlers
from timbr_wamp.machine.events.error_report import REPORT_LIMIT, report_of
from timbr_wamp.machine.events.handlers import (
    BaseEventHandler,
    DaskEventDebugger,
    DeadLetterHandler,
    RawEventDebugger,
    RetryHandler,
    make_handler,
)
from timbr_wamp.machine.events.hooks import Hooks

KINDS = ("slot", "source", "hook", "sink")


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def divide(reading):
    table = list(range(100_000))
    return len(table) / reading


def asked(handler, error):
    return handler.slot_raised(error, 2, "f2 (ratio)", "65f0", 1)


def row(**changes):
    known = {
        "run": "r", "seq": 1, "oid": "a", "attempt": 1, "revision": 1, "time": 0.0, "slot": 0, "task": "f0",
        "exc_class": "ValueError", "exc_value": "x", "exc_tb": "", "input": "1", "policy": "dead_letter",
    }  # fmt: skip
    return ErrorRow(**known | changes)


def test_the_default_leaves_everything_to_the_policies():
    handler = BaseEventHandler()
    assert handler.name == "BaseEventHandler"
    assert asked(handler, ValueError()) is None
    assert not any(handler.raises(kind, ValueError()) for kind in KINDS)


def test_the_raw_debugger_raises_everything_and_reports_in_depth(caplog):
    handler, error = RawEventDebugger(), raised(divide, 0)
    assert handler.report is None
    assert asked(handler, error).on_error == "stop"
    assert "slot 2 (f2 (ratio)), message 65f0" in handler.report
    assert "return len(table) / reading" in handler.report
    assert "reading = 0" in handler.report
    assert "ZeroDivisionError: division by zero" in handler.report
    assert handler.report in caplog.text
    assert all(handler.raises(kind, raised(divide, 0)) for kind in KINDS)
    assert "ZeroDivisionError in sink" in handler.report


def test_an_error_seen_twice_is_reported_once(caplog):
    handler, error = RawEventDebugger(), raised(divide, 0)
    asked(handler, error)
    assert handler.raises("slot", error)
    assert len(caplog.records) == 1


def test_the_dask_debugger_raises_what_slots_raise(caplog):
    handler, error = DaskEventDebugger(), raised(divide, 0)
    assert [handler.raises(kind, error) for kind in KINDS] == [True, False, False, False]
    assert asked(handler, error).on_error == "stop"
    assert handler.name == "DaskEventDebugger"


def test_retry_gives_the_same_policy_each_time():
    handler = RetryHandler(retries=2, backoff_s=0.5, then="dead_letter")
    assert asked(handler, ValueError()) == Policy(on_error="dead_letter", retries=2, backoff_s=0.5)
    assert asked(RetryHandler(then="default", default=7), ValueError()).default == 7
    assert not handler.raises("slot", ValueError())


def test_dead_letters_are_kept_up_to_a_number_and_passed_on():
    taken = []
    handler = DeadLetterHandler(taken.append, keep=2)
    assert asked(handler, ValueError()).on_error == "dead_letter"
    hooks = Hooks()
    hooks.add_object(handler)
    for oid in "abc":
        hooks.call("on_error", row(oid=oid))
    hooks.call("on_error", row(oid="d", policy="record"))
    assert [letter.oid for letter in handler.letters] == ["b", "c"]
    assert [letter.oid for letter in taken] == ["a", "b", "c"]


def test_a_failing_take_function_loses_no_dead_letter(caplog):
    handler, hooks = DeadLetterHandler(divide), Hooks()
    hooks.add_object(handler)
    hooks.call("on_error", row())
    assert (hooks.failures.count, len(handler.letters)) == (1, 1)


# --- reports ---------------------------------------------------------------------------------


class Nasty:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_a_report_is_bounded_and_survives_nasty_locals():
    def deep(n, nasty=Nasty(), long="x" * 10_000):  # noqa: B008
        if n:
            return deep(n - 1)
        raise ValueError("y" * 50_000)

    text = report_of(raised(deep, 100), "source")
    assert REPORT_LIMIT < len(text) < REPORT_LIMIT + 200
    assert text.startswith("ValueError in source\n")
    assert "characters left out" in text
    short = report_of(raised(lambda nasty: 1 / 0, Nasty()), "hook")
    assert "nasty = <Nasty instance at 0x" in short


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, BaseException])
def test_a_report_survives_locals_whose_repr_raises_anything(error):
    class Exits:
        def __repr__(self):
            raise error

    assert f"its repr raised {error.__name__}" in report_of(raised(lambda nasty: 1 / 0, Exits()), "hook")


def test_a_report_is_made_in_bounded_time(monkeypatch):
    monkeypatch.setattr(error_report, "REPRS_LIMIT_S", 0.05)
    go_on = threading.Event()

    class Slow:
        def __repr__(self):
            go_on.wait(LIMIT_S)
            return "late"

    try:
        assert "its repr was not made in time" in report_of(raised(lambda slow: 1 / 0, Slow()), "hook")
    finally:
        go_on.set()


def test_an_error_whose_text_exits_is_reported():
    class Exits(Exception):
        def __str__(self):
            raise SystemExit

    def fail(_):
        raise Exits

    assert "Exits in hook" in report_of(raised(fail, 0), "hook")


@pytest.mark.parametrize("name", ["slot_raised", "raises"])
def test_an_async_handler_is_refused(name):
    async def decide(self, *_):
        return None

    with pytest.raises(InvalidArgument, match="not awaited"):
        make_handler(type("Mine", (BaseEventHandler,), {name: decide}))


def test_large_locals_are_shortened():
    text = report_of(raised(divide, 0), "hook")
    assert "table = [0, 1, 2, 3, 4, 5, 6, 7, ...]" in text


def test_causes_have_their_locals_too():
    def outer():
        try:
            divide(0)
        except ZeroDivisionError as error:
            raise RuntimeError("outer") from error

    text = report_of(raised(outer), "slot")
    assert "direct cause" in text
    assert "reading = 0" in text


def test_frames_of_the_machine_are_left_out_unless_there_are_no_others():
    def ours(function):
        namespace = {"__name__": "timbr_wamp.machine.running.compiled_pass"}
        exec("def run(function, message):\n    return function(message)\n", namespace)
        return lambda message: namespace["run"](function, message)

    text = report_of(raised(ours(divide), 0), "slot")
    assert "in divide" in text
    assert "in run" not in text
    namespace = {"__name__": "timbr_wamp.machine.running.compiled_pass"}
    exec("def broken():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        return e\n", namespace)
    assert "in broken" in report_of(namespace["broken"](), "source")


def test_an_error_that_is_its_own_cause_ends():
    error = ValueError("round")
    other = RuntimeError("and round")
    error.__context__, other.__context__ = other, error
    assert "and round" in report_of(error, "slot")


# --- choosing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins.names(plugins.HANDLERS))
def test_built_in_handlers_are_found_by_their_class_names(name):
    handler = make_handler(name)
    assert handler.name == name
    assert type(handler) is getattr(handlers, name) is getattr(timbr_wamp, name)


def test_a_handler_is_given_by_class_and_as_an_object():
    own = BaseEventHandler()
    assert make_handler(own) is own
    assert type(make_handler(None)) is BaseEventHandler
    assert make_handler(RetryHandler, {"retries": 9}).policy.retries == 9
    assert make_handler("RetryHandler", {"retries": 9}).policy.retries == 9


@pytest.mark.parametrize(
    ("handler", "options", "says"),
    [
        ("RetryHandler", {"tries": 3}, "RetryHandler takes retries, backoff_s, then, default: got an unexpected"),
        ("RetryHandler", {"retries": -1}, "retries: a whole number"),
        ("RetryHandler", {"retries": 1.5}, "retries: a whole number"),
        ("RetryHandler", {"backoff_s": float("nan")}, "backoff_s: seconds"),
        ("RetryHandler", {"then": "explode"}, "then: one of record, default"),
        ("DeadLetterHandler", {"take": "os.system"}, "take: a plain function, not str"),
        ("DeadLetterHandler", {"keep": -1}, "keep: a whole number"),
        ("BaseEventHandler", {"x": 1}, "takes no options"),
        (BaseEventHandler(), {"x": 1}, "an object already"),
        (3, None, "int is no BaseEventHandler"),
        (dict, None, "dict is no BaseEventHandler"),
    ],
)
def test_an_invalid_handler_is_refused_with_what_is_accepted(handler, options, says):
    with pytest.raises(InvalidArgument, match=says):
        make_handler(handler, options)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownPlugin, match="BaseEventHandler, DaskEventDebugger"):
        make_handler("NoSuchHandler")


# --- in a machine ----------------------------------------------------------------------------


class Failing:
    """Fails as a source, a hook and a sink."""

    def messages(self):
        yield 1
        raise OSError("on purpose")

    def post_put(self, oid, message):
        raise OSError("on purpose")

    def publish(self, rows):
        raise OSError("on purpose")


def fails_in(kind, machine):
    if kind == "slot":
        machine[0] = divide
    elif kind == "hook":
        machine.hooks.add_object(Failing())
    elif kind == "sink":
        machine.recorder.replace_sinks(lambda sinks: (*sinks, Failing()))
    machine.start()
    if kind == "source":
        machine.source = Failing().messages()
    else:
        machine.put(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["RawEventDebugger", "DaskEventDebugger", "BaseEventHandler"])
def test_a_debugger_stops_the_machine_and_raises_what_it_is_for(machines, caplog, name, kind):
    machine = machines(stages=1, handler=name)
    raises = name == "RawEventDebugger" or (name == "DaskEventDebugger" and kind == "slot")
    fails_in(kind, machine)
    if raises:
        with pytest.raises(ZeroDivisionError if kind == "slot" else OSError):
            wait_to_the_end(machine)
        assert machine.status.state == "stopped"
        assert type(machine.handler.report) is str
    else:
        wait_to_the_end(machine)
        assert machine.running


def wait_to_the_end(machine):
    """Wait until a message was recorded, or the machine stopped itself, then for what `wait` says."""
    wait_until(lambda: machine.status.last_seq or machine.status.state == "stopped", "a record, or the end")
    assert machine.wait(LIMIT_S) or machine.status.queue_size


def test_methods_named_like_points_are_hooks_while_it_is_the_handler(machines):
    class Mine(BaseEventHandler):
        def __init__(self):
            self.puts = []

        def pre_put(self, message):
            self.puts.append(message)

    mine = Mine()
    machine = machines(handler=mine)
    machine.put(1)
    machine.handler = "BaseEventHandler"
    machine.put(2)
    assert mine.puts == [1]
    assert machine.status.handler == "BaseEventHandler"
    assert machine.events()[-1].data == {"handler": "BaseEventHandler"}


def test_dead_letters_of_a_machine(machines):
    taken = []
    machine = machines(stages=2, handler=DeadLetterHandler(taken.append))
    machine[0] = divide
    machine.start()
    oids = [machine.put(n % 2) for n in range(4)]
    assert machine.wait(LIMIT_S)
    assert machine.event_log.flush(LIMIT_S)
    assert [letter.oid for letter in taken] == [oids[0], oids[2]]
    assert machine.status.policies.dead_letters == 2
    (group,) = machine.error_groups
    assert (group.count, group.open, group.policies) == (2, 2, {"dead_letter": 2})
