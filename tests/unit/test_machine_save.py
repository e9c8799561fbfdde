"""``Machine.save`` writes a project; projects themselves are tested in test_projects.py."""

from __future__ import annotations

import tomllib

import pytest

from timbr_wamp.errors import CannotSave, InvalidArgument


def test_a_machine_saves_its_slots_and_policies(machine, tmp_path):
    machine.set(0, abs, name="clean", policy={"retries": 2})
    file = machine.save(tmp_path / "timbr.toml")
    slot = tomllib.loads(file.read_text())["slots"][0]
    assert slot == {"slot": 0, "name": "clean", "function": "builtins:abs", "policy": {"retries": 2}}


def test_an_existing_file_is_not_overwritten_by_default(machine, tmp_path):
    file = machine.save(tmp_path / "timbr.toml")
    before = file.read_text()
    machine[0] = abs
    with pytest.raises(InvalidArgument, match="overwrite"):
        machine.save(file)
    assert file.read_text() == before
    assert "abs" in machine.save(file, overwrite=True).read_text()


def test_a_function_that_nobody_could_find_again_is_named(machine, tmp_path):
    machine[3] = eval("lambda x: x")  # it has no source text, and no name to import
    with pytest.raises(CannotSave, match="3"):
        machine.save(tmp_path / "timbr.toml")
    assert not (tmp_path / "timbr.toml").exists()
