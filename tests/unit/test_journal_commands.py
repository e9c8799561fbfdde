"""``timbr-wamp journal``: what there is, what is in it, whether it is whole; also of one that a process has."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from machine_kit import LIMIT_S

from timbr_wamp.cli import main
from timbr_wamp.machine import Machine
from timbr_wamp.settings import JOURNALS_FOLDER

#: Has a journal with 200 records and a message that waits, until its stdin ends.
HOLDER = """
import sys
from timbr_wamp.machine import Machine
machine = Machine(1, journal=sys.argv[1])
machine[0] = lambda x: x * 2
machine.put_many(list(range(200)))
machine.start()
assert machine.wait(20)
machine.stop()
machine.put("waits")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TIMBR_WAMP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / JOURNALS_FOLDER


def run(*words, status=0):
    done = CliRunner().invoke(main, ["journal", *words])
    assert done.exit_code == status, done.output
    return done


def made(path, count=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    with Machine(2, journal=path) as machine:
        machine[0] = "lambda x: {'twice': x * 2}"
        machine.put_many(list(range(count)))
        machine.start()
        assert machine.wait(LIMIT_S)
        machine.stop()
        machine.put("waits")
    return path


def test_the_list_shows_records_waiting_messages_and_what_is_wrong(folder):
    assert run("ls").stdout.strip() == "no journal"
    made(folder / "lab_1" / "machine-1.journal")
    made(folder / "lab_1" / "second-12.journal", 3)
    (folder / "lab_2").mkdir()
    (folder / "lab_2" / "machine-1.journal").write_text("no database\n" * 1000)
    first, second, third = json.loads(run("ls", "--json").stdout)
    assert (first["kernel"], first["machine"], first["records"], first["waiting"]) == ("lab_1", "machine", 200, 1)
    assert (second["machine"], second["records"], second["holder"]) == ("second", 3, None)
    assert "not an SQLite database" in third["problem"]
    lines = run("ls").stdout.splitlines()
    assert len(lines) == 4
    assert "200" in lines[1]


def test_info_check_and_export_read_a_journal_by_its_file_and_by_its_kernel(folder):
    path = made(folder / "lab_1" / "machine-1.journal")
    for target in (str(path), "lab_1", "lab"):
        (info,) = json.loads(run("info", target, "--json").stdout)
        assert (info["records"], info["first_seq"], info["last_seq"], info["waiting"]) == (200, 1, 200, 1)
    assert "records" in run("info", "lab_1").stdout
    assert "is whole" in run("check", "lab_1").stderr
    run("export", "lab_1", "-o", "out.jsonl")
    with open("out.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row["seq"] for row in rows] == list(range(1, 201))
    last = rows[-1]
    assert last["values"] == {"in": 199, "f0": {"twice": 398}, "f1": {"twice": 398}}
    assert (last["attempt"], last["errored"], last["run"]) == (1, False, info["run"])
    assert [json.loads(line) for line in run("export", "lab_1", "--after", "198").stdout.splitlines()] == rows[198:]


def test_a_damaged_journal_is_told_and_what_is_whole_is_exported(folder):
    path = made(folder / "lab_1" / "machine-1.journal", 640)
    data = path.read_bytes()
    at = data.index(b'{"twice":200}')
    path.write_bytes(data[:at] + b'{"twice":999}' + data[at + 13 :])
    assert "are damaged" in run("check", str(path), status=1).stderr
    done = run("export", str(path), "-o", "out.jsonl", status=1)
    assert "are damaged and left out" in done.stderr
    with open("out.jsonl", encoding="utf-8") as file:
        kept = {json.loads(line)["seq"] for line in file}
    assert 101 not in kept
    assert {1, 640} <= kept


def test_compact_gives_the_room_of_removed_records_back(folder):
    path = made(folder / "lab_1" / "machine-1.journal")
    size = path.stat().st_size
    assert "saved" in run("compact", "lab_1").stderr
    assert path.stat().st_size <= size
    (info,) = json.loads(run("info", "lab_1", "--json").stdout)
    assert (info["records"], info["waiting"]) == (200, 1)


def test_a_journal_that_a_process_has_is_read_from_a_copy_and_not_compacted(folder):
    path = folder / "lab_1" / "machine-1.journal"
    path.parent.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            (line,) = json.loads(run("ls", "--json").stdout)
            assert (line["records"], line["waiting"], line["problem"]) == (200, 1, None)
            assert f"process {holder.pid} (" in line["holder"]
            (info,) = json.loads(run("info", str(path), "--json").stdout)
            assert (info["path"], info["records"]) == (str(path), 200)
            assert "is whole" in run("check", "lab_1").stderr
            assert len(run("export", "lab_1").stdout.splitlines()) == 200
            assert f"in use by process {holder.pid}" in run("compact", "lab_1", status=1).stderr
            assert os.listdir(path.parent), "and it still has it"
            run("compact", "lab_1", status=1)
        finally:
            holder.stdin.close()
            assert holder.wait(LIMIT_S) == 0
    run("compact", "lab_1")


@pytest.mark.parametrize("words", [("info", "nobody"), ("export", "lab"), ("check", "lab"), ("info", ".")])
def test_what_names_no_journal_or_several_is_one_sentence(folder, words):
    for kernel in ("lab_1", "lab_2"):
        made(folder / kernel / "machine-1.journal", 1)
    done = run(*words, status=1)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.output


def test_an_export_that_fails_leaves_no_file(folder, tmp_path):
    path = made(folder / "lab_1" / "machine-1.journal", 3)
    (tmp_path / "out").mkdir()
    assert "Is a directory" in run("export", str(path), "-o", "out", status=1).stderr
    assert "No such file" in run("export", str(path), "-o", "nowhere/out", status=1).stderr
    assert os.listdir(tmp_path / "out") == []
    assert not (tmp_path / "out.part").exists()
