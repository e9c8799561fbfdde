"""Names that cross a process are built and checked in one place."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from timbr_wamp import names
from timbr_wamp.components.launcher import start_kernel
from timbr_wamp.errors import InvalidName
from timbr_wamp.machine import Machine
from timbr_wamp.router import TokenStore


@pytest.mark.parametrize("text", ["", "A", "a-b", "a.b", "a b", "a\n", "ä", "../x", "x" * 65])
def test_a_component_of_a_uri_is_refused_when_a_path_or_uri_could_not_hold_it(text):
    with pytest.raises(InvalidName):
        names.checked_component(text)


@pytest.mark.parametrize("text", ["a", "machine_2", "0", "x" * 64])
def test_a_component_of_lower_case_letters_digits_and_underscore_passes(text):
    assert names.checked_component(text) == text


@pytest.mark.parametrize("name", ["My Lab", "lab-2", "Zürich", "a.b", ""])
def test_one_rule_holds_for_names_of_kernels_machines_and_tokens_and_the_error_offers_a_name(name, tmp_path):
    offered = set()
    for refuse in (
        lambda: Machine(1, name=name),
        lambda: TokenStore(tmp_path / "tokens.json").create(name, "viewer"),
        lambda: start_kernel(tmp_path, "lab_0123456789ab", name=name),
    ):
        with pytest.raises(InvalidName) as caught:
            refuse()
        offered.add(str(caught.value).rpartition("such as ")[2])
    (good,) = offered
    assert names.checked_name(good) == good


def test_a_kernel_id_says_which_host_it_belongs_to_also_when_one_hosts_name_begins_like_anothers():
    kernel_id = names.new_kernel_id("lab_2")
    assert names.host_of_kernel(kernel_id) == "lab_2"
    assert names.host_of_kernel("lab_4f2a9c01d3e7") == "lab"


@pytest.mark.parametrize("text", ["lab", "lab_4f2a9c01d3e", "lab_4F2A9C01D3E7", "lab_4f2a9c01d3e7\n", "_4f2a9c01d3e7"])
def test_what_is_no_kernel_id_is_refused(text):
    with pytest.raises(InvalidName):
        names.checked_kernel_id(text)


def test_an_authid_is_at_most_32_characters_and_a_default_one_always_fits():
    with pytest.raises(InvalidName):
        names.checked_authid("x" * 33)
    for text in ("Ada's MacBook.local", "", "ÄÖÜ", "x" * 80, "__a__"):
        assert names.checked_authid(names.authid_from(text))


def test_uris_are_built_from_checked_parts_only():
    assert names.kernel_uri("lab_4f2a9c01d3e7", "machine", "put") == "io.timbr.kernel.lab_4f2a9c01d3e7.machine.put"
    with pytest.raises(InvalidName):
        names.kernel_uri("lab_4f2a9c01d3e7", "machine.put")
    with pytest.raises(InvalidName):
        names.host_uri("Lab", "start")


def test_message_ids_are_distinct_and_sort_by_the_time_they_were_made():
    make = names.OidMaker()
    oids = [make(1_700_000_000.0 + i // 1000) for i in range(5000)]
    assert len(set(oids)) == 5000
    assert oids == sorted(oids)
    assert all(names.checked_oid(oid) == oid for oid in oids)
    assert int(oids[0][:8], 16) == 1_700_000_000


def test_ids_made_many_at_a_time_are_new_and_sorted_over_the_ends_of_blocks_and_seconds():
    make = names.OidMaker()
    oids = [make(1_700_000_000.0)]
    for second in range(3):
        for count in (1, 64, 4096, 5000):
            oids += make.many(1_700_000_000.5 + second, count)
            oids.append(make(1_700_000_000.9 + second))
    assert len(set(oids)) == len(oids) == 1 + 3 * (1 + 64 + 4096 + 5000 + 4)
    assert oids == sorted(oids)
    assert all(names.checked_oid(oid) == oid for oid in oids)
    assert make.many(0.0, 0) == []


def test_ids_of_several_threads_are_all_different():
    make = names.OidMaker()
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda n: [make(float(n % 3)), *make.many(float(n % 2), 700)], range(200))
        oids = [oid for part in made for oid in part]
    assert len(set(oids)) == len(oids) == 200 * 701


@pytest.mark.parametrize("oid", ["", "x" * 24, "A" * 24, "a" * 23, "a" * 25, 5, None, b"a" * 24])
def test_what_is_no_message_id_is_refused(oid):
    with pytest.raises(InvalidName, match="is not a message id: 24 hex digits"):
        names.checked_oid(oid)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_message_ids_of_its_own():
    make = names.OidMaker()
    ours = make(0.0)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, make(0.0).encode())
        os._exit(0)
    theirs = os.read(read, 24).decode()
    os.waitpid(pid, 0)
    os.close(read), os.close(write)
    assert theirs[8:18] != ours[8:18]


def test_two_runs_never_share_a_name():
    assert len({names.new_run() for _ in range(1000)}) == 1000
