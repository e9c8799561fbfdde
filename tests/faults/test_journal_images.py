"""What is on the disk at any instant, and what a power failure leaves of it, is a journal with all that was confirmed.

Two kinds of images: the files of a process that is stopped, as a backup or a snapshot of the disk would have them; and
the files as they were at their last ``fsync``, as if everything later had been lost with the power. A small library,
loaded into the process before SQLite, keeps these. It shows that what is confirmed was synced before, and that a
journal without its later bytes is whole. It does not show what a disk does that lies about ``fsync``, nor writes that
are lost in part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from queue import Empty

import pytest
from journal_kit import LIMIT_S, Child, check_image

from timbr_wamp.names import new_oid

#: Keeps a copy of a journal's files, as they are at each fsync: read by the descriptor that is synced, as closing
#: another one would end SQLite's locks.
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static void keep(int fd) {
    char link[64], path[4000], part[4100], kept[4100], bytes[1 << 16];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (!strstr(path, ".journal")) return;
    snprintf(part, sizeof part, "%s.part", path);
    snprintf(kept, sizeof kept, "%s.synced", path);
    pthread_mutex_lock(&one);
    int out = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t got;
    for (off_t at = 0; (got = pread(fd, bytes, sizeof bytes, at)) > 0; at += got)
        if (write(out, bytes, got) != got) _exit(9);
    close(out);
    rename(part, kept);
    pthread_mutex_unlock(&one);
}

int fsync(int fd) {
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
    if (!result) keep(fd);
    return result;
}

int fdatasync(int fd) {
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
    if (!result) keep(fd);
    return result;
}
"""


def drained(child):
    """Return what it has said."""
    lines = []
    while True:
        try:
            lines.append(child.lines.get_nowait())
        except Empty:
            return [line for line in lines if line != "done"]


def numbered(count):
    return [(new_oid(), number) for number in range(count)]


@pytest.mark.timeout(120)
def test_the_files_of_a_stopped_process_hold_each_confirmed_message_once(tmp_path):
    path = tmp_path / "machine.journal"
    child = Child(path)
    confirmed = []
    child.send(numbered(600), end=True)
    try:
        for image in range(4):
            confirmed += [child.lines.get(timeout=LIMIT_S) for _ in range(100)]
            child.freeze()
            copy = tmp_path / f"image{image}" / path.name
            copy.parent.mkdir()
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(f"{path}{suffix}"):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            child.thaw()
            check_image(copy, confirmed)
    finally:
        child.thaw()
        while child.lines.get(timeout=LIMIT_S) != "done":
            pass
        child.leave()
    check_image(path, confirmed)


@pytest.fixture(scope="module")
def keeping_library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None or not os.path.exists("/proc/self/fd"):
        pytest.skip("no C compiler, or another system than Linux")
    folder = tmp_path_factory.mktemp("library")
    (folder / "keep.c").write_text(LIBRARY)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", "keep.so", "keep.c", "-ldl", "-lpthread"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    return folder / "keep.so"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("after", [3, 60, 150])
def test_what_was_synced_holds_each_confirmed_message_once(tmp_path, keeping_library, after):
    path = tmp_path / "machine.journal"
    child = Child(path, {"LD_PRELOAD": str(keeping_library)})
    child.send(numbered(400), end=False)
    confirmed = [child.lines.get(timeout=LIMIT_S) for _ in range(after)]
    child.kill()
    confirmed += drained(child)
    image = tmp_path / "image" / path.name
    image.parent.mkdir()
    for suffix in ("", "-wal"):
        if os.path.exists(f"{path}{suffix}.synced"):
            shutil.copyfile(f"{path}{suffix}.synced", f"{image}{suffix}")
    assert image.exists(), "the library was not loaded"
    check_image(image, confirmed)
    assert max(Counter(confirmed).values()) == 1
