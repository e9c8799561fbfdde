"""Foreign code is called by one rule, and foreign errors become texts without running their code unprotected."""

from __future__ import annotations

import threading

import pytest

from timbr_wamp.errors import class_and_text, described, is_users_interrupt, message_of
from timbr_wamp.machine.isolation import call_isolated, run_all
from timbr_wamp.machine.tracebacks import traceback_text, where_raised

FOREIGN = [ValueError, SystemExit, GeneratorExit, BaseException]


def raising(error):
    def raises(*_):
        raise error

    return raises


@pytest.mark.parametrize("error", FOREIGN)
def test_errors_of_foreign_code_go_to_the_failure_callback(error):
    seen = []
    call_isolated(raising(error), 1, on_failure=seen.append)
    assert [type(one) for one in seen] == [error]


def test_only_an_interrupt_in_the_main_thread_is_the_users():
    seen = []
    with pytest.raises(KeyboardInterrupt):
        call_isolated(raising(KeyboardInterrupt), on_failure=seen.append)
    assert seen == []
    other = threading.Thread(
        target=call_isolated, args=(raising(KeyboardInterrupt),), kwargs={"on_failure": seen.append}
    )
    other.start()
    other.join(5)
    assert [type(one) for one in seen] == [KeyboardInterrupt]
    assert not is_users_interrupt(SystemExit())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_steps_that_belong_together_are_all_run_and_the_first_error_is_raised(error):
    done = []
    with pytest.raises(error):
        run_all([lambda: done.append(1), raising(error), lambda: done.append(2), raising(SystemExit)])
    assert done == [1, 2]


class Nasty(Exception):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __str__(self):
        raise self.error

    __repr__ = __str__


@pytest.mark.parametrize("error", FOREIGN)
def test_an_error_whose_text_raises_is_still_described(error):
    with pytest.raises(Nasty) as raised:
        raise Nasty(error)
    assert message_of(raised.value) == f"<its text raised {error.__name__}>"
    assert "Nasty" in traceback_text(raised.value)
    assert where_raised(raised.value).startswith(__file__)


def test_a_missing_attribute_of_an_object_with_a_nasty_dir_is_still_described():
    class Directory:
        def __dir__(self):
            raise SystemExit

    with pytest.raises(AttributeError) as raised:
        Directory().missing  # noqa: B018
    assert "AttributeError" in traceback_text(raised.value)


def test_an_error_without_a_message_is_shown_without_a_dangling_colon():
    assert described(ValueError()) == "ValueError"
    assert described(ValueError("no")) == "ValueError: no"
    assert class_and_text("f3", described(KeyError())) == "f3: KeyError"


class Disguised(type):
    """A metaclass that hides its classes' attributes."""

    def __getattribute__(cls, name):
        raise SystemExit


@pytest.mark.parametrize("error", FOREIGN)
def test_an_error_that_hides_its_class_and_its_text_is_described(error):
    class Hidden(Nasty, metaclass=Disguised):
        pass

    hidden = Hidden(error)
    assert described(hidden).endswith(f"Hidden: <its text raised {error.__name__}>")
