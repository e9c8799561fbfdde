"""Parts are found by name, ours and others' alike."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from timbr_wamp import plugins
from timbr_wamp.errors import PluginNotInstalled, UnknownPlugin
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.streams import stream


def test_our_own_parts_load_by_name():
    assert plugins.load(plugins.EXECUTORS, "inline") is InlineExecutor
    assert "inline" in plugins.names(plugins.EXECUTORS)


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(UnknownPlugin) as caught:
        plugins.load(plugins.EXECUTORS, "quantum")
    assert "inline" in str(caught.value)


def test_a_part_of_another_package_loads_by_its_entry_point(monkeypatch):
    point = EntryPoint("od", "collections:OrderedDict.fromkeys", plugins.SINKS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (point,) if group == plugins.SINKS else ())
    assert plugins.load(plugins.SINKS, "od")("a") == {"a": None}
    assert plugins.names(plugins.SINKS) == ("od",)


def test_a_part_whose_library_is_missing_says_what_to_install(monkeypatch):
    point = EntryPoint("kafka", "no_such_library_here:Sink", plugins.SINKS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (point,))
    with pytest.raises(PluginNotInstalled, match="pip install no_such_library_here"):
        plugins.load(plugins.SINKS, "kafka")


@pytest.mark.parametrize(
    ("scheme", "library", "extra"), [("redis", "redis", "redis"), ("mongodb", "pymongo", "mongodb")]
)
def test_a_part_of_ours_whose_library_is_missing_names_the_extra(monkeypatch, scheme, library, extra):
    for module in [name for name in sys.modules if name.startswith(f"timbr_wamp.streams.backends.{scheme}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PluginNotInstalled) as caught:
        stream("events", f"{scheme}://127.0.0.1/")
    assert f"pip install 'timbr-wamp[{extra}]'" in str(caught.value)


def test_outside_an_ipython_kernel_there_is_no_kernel_face(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp", raising=False)
    assert plugins.own_kernel() is None
