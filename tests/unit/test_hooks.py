"""Hooks: named points, isolation, counting, objects and plugins."""

from __future__ import annotations

import threading
from importlib.metadata import EntryPoint
from typing import get_args

import pytest

from timbr_wamp import plugins
from timbr_wamp.contract import EventKind
from timbr_wamp.errors import InvalidArgument, UnknownPlugin
from timbr_wamp.machine.events.failure_log import FAILING_KEPT, FailureLog
from timbr_wamp.machine.events.hooks import POINTS, Hooks, load_hooks


@pytest.fixture
def hooks():
    return Hooks()


def fail(*_):
    raise ValueError("on purpose")


def test_hooks_of_a_point_run_in_their_order_with_its_arguments(hooks):
    seen = []
    hooks.add("post_slot", lambda *arguments: seen.append(("first", arguments)))
    hooks.add("post_slot", lambda *arguments: seen.append(("second", arguments)))
    hooks.call("post_slot", "oid", 1, 2, None)
    hooks.call("pre_slot", "oid", 1, ())
    assert seen == [("first", ("oid", 1, 2, None)), ("second", ("oid", 1, 2, None))]


def test_a_removed_hook_runs_no_more_and_is_removed_once(hooks):
    seen = []
    function = seen.append
    end_first, end_second = hooks.add("pre_put", function), hooks.add("pre_put", function)
    end_first()
    end_first()
    hooks.call("pre_put", 1)
    assert seen == [1]
    end_second()
    assert hooks.at("pre_put") == ()


def test_a_change_increases_the_version_and_leaves_earlier_tables_unchanged(hooks):
    before, given = hooks.version, hooks.at("pre_get")
    end = hooks.add("pre_get", fail)
    assert (given, len(hooks.at("pre_get"))) == ((), 1)
    added = hooks.version
    end()
    assert before < added < hooks.version


@pytest.mark.parametrize(
    ("point", "near"), [("post_slots", "post_slot"), ("on_drain", "on_drained"), ("begin", "pre_")]
)
def test_an_unknown_point_is_refused_with_its_neighbours(hooks, point, near):
    with pytest.raises(InvalidArgument, match=near):
        hooks.add(point, print)
    assert hooks.version == 0


@pytest.mark.parametrize("point", [None, 3, ["pre_put"]])
def test_a_point_is_a_text(hooks, point):
    with pytest.raises((InvalidArgument, TypeError)):
        hooks.add(point, print)


def test_only_what_can_be_called_is_a_hook(hooks):
    with pytest.raises(InvalidArgument, match="callable, not int"):
        hooks.add("pre_put", 3)


def test_every_kind_of_event_has_a_point():
    assert {f"on_{kind}" for kind in get_args(EventKind)} <= set(POINTS)
    assert {"on_event", "on_error", "on_shutdown", "on_restart"} <= set(POINTS)


def test_shutdown_and_restart_are_other_names(hooks):
    seen = []
    hooks.add("on_shutdown", seen.append)
    hooks.add("on_restart", seen.append)
    hooks.call("on_closed", "closed")
    hooks.call("on_restarted", "restarted")
    assert seen == ["closed", "restarted"]


# --- isolation -------------------------------------------------------------------------------


FOREIGN = [ValueError, SystemExit, GeneratorExit, BaseException]


@pytest.mark.parametrize("error", FOREIGN)
def test_a_hook_that_fails_is_counted_and_the_others_run(hooks, caplog, error):
    def fails(*_):
        raise error("on purpose")

    seen, reported = [], []
    hooks.failures.on_report = lambda *arguments: reported.append(arguments)
    hooks.add("pre_message", fails)
    hooks.add("pre_message", lambda oid, message: seen.append(message))
    hooks.call("pre_message", "oid", 7)
    assert seen == [7]
    assert hooks.failures.count == 1
    ((kind, part, reason),) = reported
    assert (kind, str(reason)) == ("hook", "on purpose")
    assert part.endswith("fails at pre_message")
    assert f"{error.__name__}: on purpose" in caplog.text


def test_a_hook_that_always_fails_is_still_called_and_logged_once_a_second(caplog):
    now = [0.0]
    hooks = Hooks(FailureLog(monotonic=lambda: now[0]))
    hooks.add("post_put", fail)
    for _ in range(2_000):
        hooks.call("post_put", "oid", 1)
    assert (hooks.failures.count, len(caplog.records)) == (2_000, 1)
    now[0] = 1.0
    hooks.call("post_put", "oid", 1)
    assert len(caplog.records) == 2
    assert "2001 times so far, 1999 of them unlogged" in caplog.text


def test_the_users_interrupt_passes_after_the_last_hook_was_called(hooks):
    def interrupted():
        raise KeyboardInterrupt

    seen = []
    hooks.add("pre_start", interrupted)
    hooks.add("pre_start", lambda: seen.append("after it"))
    with pytest.raises(KeyboardInterrupt):
        hooks.call("pre_start")
    assert (hooks.failures.count, seen) == (0, ["after it"])


def test_an_interrupt_raised_in_another_thread_is_a_failure_like_others(hooks, caplog):
    def interrupted():
        raise KeyboardInterrupt

    hooks.add("pre_start", interrupted)
    other = threading.Thread(target=hooks.call, args=("pre_start",))
    other.start()
    other.join(5)
    assert hooks.failures.count == 1


def test_an_error_whose_text_cannot_be_had_is_counted_and_logged(hooks, caplog):
    class Nasty(Exception):
        def __str__(self):
            raise SystemExit

    def fails():
        raise Nasty

    hooks.add("pre_start", fails)
    hooks.call("pre_start")
    assert hooks.failures.count == 1
    assert "Nasty" in caplog.text


def test_a_failure_of_the_event_handler_is_counted_and_not_reported_to_the_handler(hooks, caplog):
    reported = []
    hooks.failures.on_report = lambda *arguments: reported.append(arguments)
    hooks.failures.report("event handler Mine", ValueError("on purpose"))
    assert (hooks.failures.count, reported) == (1, [])


def test_failures_of_any_number_of_parts_are_counted(hooks, caplog):
    for n in range(FAILING_KEPT + 10):
        hooks.failures.report(f"part {n}", ValueError("on purpose"))
    assert hooks.failures.count == FAILING_KEPT + 10


def test_counts_hold_with_many_threads(hooks, caplog):
    hooks.add("pre_put", fail)
    threads = [threading.Thread(target=lambda: [hooks.call("pre_put", n) for n in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert hooks.failures.count == 2_000


# --- async functions ---------------------------------------------------------------------------


async def awaited(*_):
    raise AssertionError("nobody awaits it")


def test_an_async_function_is_refused_as_a_hook(hooks):
    class Watcher:
        async def on_drained(self, event):
            raise AssertionError("nobody awaits it")

    for refused in (lambda: hooks.add("on_drained", awaited), lambda: hooks.add_object(Watcher())):
        with pytest.raises(InvalidArgument, match="not awaited"):
            refused()
    assert hooks.version == 0


def test_a_hook_that_turns_out_to_be_async_is_a_failure(hooks, caplog):
    hooks.add("on_drained", lambda event: awaited(event))
    hooks.call("on_drained", "event")
    assert hooks.failures.count == 1
    assert "not awaited" in caplog.text


# --- objects and plugins ---------------------------------------------------------------------


class Timers:
    def __init__(self):
        self.seen = []

    def pre_put(self, message):
        self.seen.append(("pre_put", message))

    def on_drained(self, event):
        self.seen.append(("on_drained", event))

    def other(self):
        raise AssertionError("no point")


def test_every_method_named_like_a_point_is_a_hook(hooks):
    watcher = Timers()
    end = hooks.add_object(watcher)
    hooks.call("pre_put", 1)
    hooks.call("on_drained", "event")
    assert watcher.seen == [("pre_put", 1), ("on_drained", "event")]
    end()
    assert hooks.at("pre_put") == hooks.at("on_drained") == ()


def test_an_object_without_such_methods_is_refused_unless_it_may_be_so(hooks):
    with pytest.raises(InvalidArgument, match="object has no method named like a hook point"):
        hooks.add_object(object())
    end = hooks.add_object(object(), required=False)
    end()
    with pytest.raises(InvalidArgument, match="Timers is a class"):
        hooks.add_object(Timers)


def test_an_object_with_dynamic_attributes_is_not_a_hook_at_every_point(hooks):
    class Yes:
        def __getattr__(self, name):
            return lambda *_: None

    with pytest.raises(InvalidArgument, match="Yes has no method"):
        hooks.add_object(Yes())


def test_a_method_with_a_misspelled_point_name_is_reported(hooks, caplog):
    class Typo(Timers):
        def on_drain(self, event):
            raise AssertionError("never called")

    hooks.add_object(Typo())
    assert "on_drain is no hook point and is never called; there is on_drained" in caplog.text


def test_hooks_are_found_by_name(hooks, monkeypatch):
    point = EntryPoint("watcher", f"{__name__}:Timers", plugins.HOOKS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (point,) if group == plugins.HOOKS else ())
    monkeypatch.setattr(plugins, "import_module", lambda name: __import__("types").SimpleNamespace(Timers=Timers))
    own = Timers()
    found = load_hooks(["watcher", own, Timers])
    assert [type(hook) for hook in found] == [Timers, Timers, Timers]
    assert found[1] is own
    with pytest.raises(UnknownPlugin, match=r"known plugins: .*watcher"):
        load_hooks(["watchman"])


def test_options_go_to_names_and_classes_only():
    (command,) = load_hooks([("RunCommand", {"argv": ["true"], "kinds": ["stalled"]})])
    assert (command.argv, command.kinds) == (("true",), ("stalled",))
    with pytest.raises(InvalidArgument, match="RunCommand takes argv, kinds, timeout_s, about: missing"):
        load_hooks(["RunCommand"])
    with pytest.raises(InvalidArgument, match="an object already"):
        load_hooks([(Timers(), {"a": 1})])
