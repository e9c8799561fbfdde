"""Ctrl-C in the main thread at every point of a verb: counts, locks and messages stay whole."""

from __future__ import annotations

import asyncio
import queue
import random
import signal
import threading
from collections.abc import Callable

import pytest
import zmq
from interrupt_kit import handler_of_sigint, interrupt_everywhere

from tests.machine_kit import LIMIT_S
from timbr_wamp.machine import Machine
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.serving.publisher import Publisher

VERBS: dict[str, Callable[[Machine], object]] = {
    "get": lambda m: m.get(),
    "call": lambda m: m(5),
    "start": lambda m: m.start(),
    "set": lambda m: m.__setitem__(1, str),
    "set object": lambda m: m.__setitem__(1, Openable()),
    "del": lambda m: m.__delitem__(0),
    "policy": lambda m: m.set_policy(0, "drop"),
    "resize": lambda m: m.resize(3),
    "rollback": lambda m: m.rollback(1),
    "set_source": lambda m: m.set_source([7, 8]),
    "handler": lambda m: m.set_handler("RetryHandler"),
    "retry_errors": lambda m: m.retry_errors(),
    "replay": lambda m: m.replay(m.run, [1]),
    "configure": lambda m: m.configure(bufsize=9, concurrency=2),
    "stop": lambda m: m.stop(),
}


class Openable:
    """An object with something to open."""

    def prep(self) -> None:
        self.open = True

    def step(self, value: object) -> object:
        assert self.open
        return value


class Failing:
    """A slot function that fails for one message, once."""

    def __init__(self) -> None:
        self.left = 1

    def __call__(self, value: object) -> object:
        if value == "fails" and self.left:
            self.left -= 1
            raise ValueError(value)
        return value


def machine_with_a_history() -> Machine:
    """Return an idle machine that has one record, one failed message and two that wait."""
    machine = Machine(2, bufsize=8, serve=False)
    machine[0] = Failing()
    for message in ("first", "fails", "second", "third"):
        machine.put(message)
    machine.get()
    machine.get()
    return machine


#: `make test` tries one point in this many, others each time; `make soak` tries them all.
EVERY = 23


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_interrupted_at_some_points_leaves_the_machine_whole(verb: str) -> None:
    check_interrupted(verb, every=EVERY, first=random.randrange(1, EVERY))


@pytest.mark.soak
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_interrupted_anywhere_leaves_the_machine_whole(verb: str) -> None:
    check_interrupted(verb, every=1, first=1)


def check_interrupted(verb: str, *, every: int, first: int) -> None:
    """Interrupt a verb at its points; check after each that the machine is whole and can continue."""

    def check(machine: Machine, number: int) -> None:
        seen: queue.Queue[object] = queue.Queue()

        def use() -> None:  # another thread: every lock must be free
            try:
                machine.put("fourth", block=True, timeout=LIMIT_S)
                machine[1] = len
                machine.start()
                seen.put(machine.wait(LIMIT_S))
            except BaseException as error:
                seen.put(error)

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        settled = seen.get(timeout=2 * LIMIT_S)
        assert settled is True, settled
        status = machine.status
        held = status.processed + status.errored + status.dropped + status.queue_size + status.in_flight
        assert status.put == held == status.processed + status.errored
        wanted = [row.input for row in machine.recent(50)]
        assert {"first", "fails", "second", "third", "fourth"} <= set(wanted), "a message was lost"
        assert wanted.count("second") == wanted.count("third") == 1, "a message was recorded twice"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        thread.join(LIMIT_S)
        machine.close()

    points = interrupt_everywhere(
        machine_with_a_history, VERBS[verb], check, error=KeyboardInterrupt, by_signal=True, every=every, first=first,
    )  # fmt: skip
    assert points > 20


@pytest.mark.parametrize("how", ["prep", "text", "async prep"])
def test_an_interrupt_ends_a_change_of_slots_that_takes_long_and_leaves_them_as_they_were(how: str) -> None:
    started = threading.Event()

    def interrupt_soon() -> None:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT]).start()

    def hang() -> None:
        interrupt_soon()
        started.wait(30.0)

    class Hangs:
        def prep(self) -> object:
            hang()
            return None

        def step(self, value: object) -> object:
            return value

    class HangsInLoop(Hangs):
        async def prep(self) -> None:  # type: ignore[override]
            interrupt_soon()
            await asyncio.Event().wait()

    with Machine(1, serve=False, namespace={"hang": hang}) as machine:
        given: object = {"prep": Hangs(), "text": "hang()\nlambda x: x", "async prep": HangsInLoop()}[how]
        with pytest.raises(KeyboardInterrupt):
            machine[0] = given
        assert machine.revision == 0
        machine[0] = str
        assert machine(1).values[0] == "1"
    started.set()


def test_an_interrupt_in_a_slot_that_is_stepped_gives_the_message_back() -> None:
    machine = Machine(1, serve=False)
    interrupts = iter([signal.SIGINT])

    def slot(value: object) -> object:
        for number in interrupts:
            signal.raise_signal(number)
        return value

    machine[0] = slot
    machine.put(1)
    with pytest.raises(KeyboardInterrupt):
        machine.get()
    assert (machine.status.queue_size, machine.status.in_flight) == (1, 0)
    assert machine.get()[1:] == ("1", "1")
    machine.close()


def test_an_interrupt_ends_a_wait_for_a_message_at_once() -> None:
    machine = Machine(1, serve=False)
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        machine.get(block=True, timeout=30.0)
    timer.join()
    machine.close()


def test_ctrl_c_while_the_event_loop_is_started_leaves_no_loop_that_nobody_can_end():
    def check(loop: EventLoop, number: int) -> None:
        loop.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "timbr loop"]

    modules = ("timbr_wamp.machine.running.event_loop", "timbr_wamp.machine.interrupts", "threading")
    with handler_of_sigint():
        assert interrupt_everywhere(
            EventLoop, lambda loop: loop.start(int), check, modules=modules, error=KeyboardInterrupt, by_signal=True
        )


def test_ctrl_c_while_a_record_is_sent_leaves_no_half_of_it():
    with zmq.Context() as context, context.socket(zmq.XPUB) as sender, context.socket(zmq.SUB) as receiver:
        sender.bind("inproc://records")
        receiver.connect("inproc://records")
        receiver.subscribe(b"")
        receiver.rcvtimeo = int(LIMIT_S * 1000)
        assert sender.poll(receiver.rcvtimeo)
        publisher = Publisher(sender, "run")

        def check(_: Publisher, number: int) -> None:
            publisher.publish([(2, "end", b"[]", b"{}")])
            received = list(iter(receiver.recv_multipart, [b"end", b"[]", b"{}"]))
            assert received in ([], [[b"one", b"[1]", b"{}"]])

        modules = ("timbr_wamp.machine.serving.publisher",)
        with handler_of_sigint():
            assert interrupt_everywhere(
                lambda: publisher, lambda _: publisher.publish([(1, "one", b"[1]", b"{}")]), check,
                modules=modules, error=KeyboardInterrupt, by_signal=True,
            )  # fmt: skip
        publisher.close()
