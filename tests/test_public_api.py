"""The public API is a list: ``__all__`` of each package. And the tree of errors is whole."""

from __future__ import annotations

import inspect
import pickle
import pkgutil
from importlib import import_module
from typing import Any

import pytest

import timbr_wamp
from timbr_wamp.errors import ERROR_PREFIX, ERRORS, RemoteError, TimbrError, from_wire, to_wire

PACKAGES = sorted(
    name for _, name, is_package in pkgutil.walk_packages(timbr_wamp.__path__, "timbr_wamp.") if is_package
)


@pytest.mark.parametrize("name", ["timbr_wamp", *PACKAGES])
def test_all_names_what_is_there(name: str) -> None:
    package = import_module(name)
    public = getattr(package, "__all__", None)
    assert public is not None, f"{name} has no __all__"
    assert len(public) == len(set(public))
    missing = [entry for entry in public if not hasattr(package, entry)]
    assert not missing, f"{name}.__all__ names what is not there"


def test_dir_shows_the_lazy_names_before_they_are_used() -> None:
    assert set(timbr_wamp.__all__) <= set(dir(timbr_wamp))


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = timbr_wamp.no_such_thing


# --- errors ----------------------------------------------------------------------------------

SAMPLES: dict[str, object] = {"str": "some text", "int": 3, "float": 2.5, "bool": True}


def _sample(parameter: inspect.Parameter) -> object:
    annotation = str(parameter.annotation)
    if "Sequence[" in annotation or "list[" in annotation:
        return ["one", "two"]
    return SAMPLES.get(annotation.partition(" ")[0], "some text")


def _made(error: type[TimbrError]) -> TimbrError:
    if error is TimbrError:
        return TimbrError("some text")
    parameters = list(inspect.signature(error.__init__).parameters.values())[1:]
    return error(*(_sample(parameter) for parameter in parameters))


ALL_ERRORS = pytest.mark.parametrize("error", list(ERRORS.values()), ids=lambda error: error.__name__)


def test_no_class_of_the_tree_is_missing_from_the_table() -> None:
    def below(error: type[TimbrError]) -> set[type[TimbrError]]:
        return {error, *(found for child in error.__subclasses__() for found in below(child))}

    assert {error for error in below(TimbrError) if error.__module__ == "timbr_wamp.errors"} == set(ERRORS.values())


@ALL_ERRORS
def test_it_has_a_uri_of_its_own(error: type[TimbrError]) -> None:
    assert error.uri.startswith(ERROR_PREFIX)
    assert ERRORS[error.uri] is error


@ALL_ERRORS
def test_it_survives_pickling(error: type[TimbrError]) -> None:
    original = _made(error)
    copy = pickle.loads(pickle.dumps(original))
    assert type(copy) is error
    assert copy.args == original.args
    assert str(copy) == str(original)
    assert vars(copy) == vars(original)


@ALL_ERRORS
def test_it_survives_the_wire_with_its_traceback(error: type[TimbrError]) -> None:
    original = _made(error)
    uri, args, kwargs = _over_json(to_wire(original))
    copy = from_wire(uri, args, kwargs)
    assert type(copy) is error
    assert str(copy) == str(original)
    assert copy.remote_traceback is not None
    assert error.__name__ in copy.remote_traceback


def _over_json(wire: Any) -> Any:
    import json

    return json.loads(json.dumps(wire))


@ALL_ERRORS
def test_it_says_a_sentence(error: type[TimbrError]) -> None:
    text = str(_made(error))
    assert text
    assert not text.startswith("("), "the default text of several arguments"
    assert not text.endswith("\n")


def test_an_error_of_another_tree_arrives_as_a_remote_one() -> None:
    uri, args, kwargs = to_wire(ZeroDivisionError("division by zero"))
    copy = from_wire(uri, args, kwargs)
    assert isinstance(copy, RemoteError)
    assert str(copy) == "ZeroDivisionError: division by zero"


def test_an_error_of_a_newer_version_keeps_its_text() -> None:
    copy = from_wire(ERROR_PREFIX + "from_the_future", [1, 2], {"message": "it said this"})
    assert isinstance(copy, RemoteError)
    assert "it said this" in str(copy)


def test_one_whose_arguments_changed_keeps_its_text() -> None:
    copy = from_wire(ERROR_PREFIX + "machine_full", [1, 2, 3, 4], {"message": "it said this"})
    assert "it said this" in str(copy)
