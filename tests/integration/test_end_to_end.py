"""The main job as a user does it: the installed command, Python and JavaScript readers, and killed processes."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from wait_kit import wait_until

import timbr_wamp
from tests.conftest import require_service
from timbr_wamp import Gap, Record, runtime
from timbr_wamp.client import Client, RemoteMachine
from timbr_wamp.router import free_port as pick_free_port
from timbr_wamp.settings import ENV_PREFIX, Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = 10_000
#: Ten messages each ten milliseconds or so: slow enough that a change, or bad luck, comes in the middle.
SOURCE = f"""
def numbers():
    import time
    for number in range(1, {MESSAGES} + 1):
        if number % 10 == 0:
            time.sleep({{pause}})
        yield number
"""


@contextmanager
def up(settings: Settings, *options: str) -> Iterator[dict[str, Any]]:
    """Run ``timbr-wamp up`` as a user would; give what it printed."""
    environ = {
        **os.environ,
        f"{ENV_PREFIX}RUNTIME_DIR": str(settings.runtime_dir),
        f"{ENV_PREFIX}DATA_DIR": str(settings.data_dir),
    }
    command = shutil.which("timbr-wamp", path=str(Path(sys.executable).parent))
    assert command is not None, "the package is not installed beside this Python"
    port = str(pick_free_port())
    process = subprocess.Popen(
        [command, "up", "--json", "--port", port, "--stop-kernels", *options],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, f"`timbr-wamp up` ended: {process.wait(10)}: {''.join(errors)}"
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait(5)
            reader.join(5)
            process.stdout.close()
            process.stderr.close()
    assert process.returncode == 0, "".join(errors)


@contextmanager
def reader(machine: RemoteMachine, expected: int, timeout_s: float = 120.0) -> Iterator[list[Record | Gap]]:
    """Read records from the first one kept in a thread until ``expected`` came; join it on the way out."""
    seen: list[Any] = []

    def read() -> None:
        for item in machine.records(after_seq=0, timeout_s=60.0):
            seen.append(item)
            if isinstance(item, Record) and item.seq >= expected:
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield seen
    thread.join(timeout_s)
    assert not thread.is_alive(), f"only {len(seen)} of {expected}"


def check_complete(seen: list[Any], revisions: tuple[int, int]) -> None:
    """Check: every record once, in order, each value made by the revision that the record names."""
    strange = [item for item in seen if not isinstance(item, Record)]
    assert strange == []
    assert [record.seq for record in seen] == list(range(1, MESSAGES + 1))
    assert [record.input for record in seen] == list(range(1, MESSAGES + 1))
    assert len({record.oid for record in seen}) == MESSAGES
    made = Counter((record.revision, record.values[0][0]) for record in seen)
    assert set(made) == {(revisions[0], "before"), (revisions[1], "after")}, made
    numbers = [record.revision for record in seen]
    assert numbers == sorted(numbers)
    assert all(record.values[0][1] == record.input and not record.errored for record in seen)


def node_reader(url: str, token: str, kernel_id: str) -> subprocess.Popen[str]:
    """Start the Node script that reads the same records with wampy; return when it is subscribed."""
    process = subprocess.Popen(
        ["node", str(ROOT / "tests/node/wampy_client.mjs"), "--url", url, "--kernel-id", kernel_id,
         "--count", str(MESSAGES), "--timeout-s", "90"],
        env={**os.environ, "TIMBR_WAMP_TOKEN": token}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, "the script ended"
    assert json.loads(first)["subscribed"]
    return process


def prepared(client: Client) -> RemoteMachine:
    """Return the machine of a new kernel, with one slot and nothing else."""
    kernel = client.start_kernel(name="flow", host="lab")
    kernel.execute("import timbr_wamp; m = timbr_wamp.Machine()", timeout_s=30)
    wait_until(lambda: [brief.name for brief in kernel.machines()] == ["machine"], "the bridge sees the machine")
    machine = kernel.machine()
    machine[0] = 'lambda number: ["before", number]'
    return machine


def test_python_and_javascript_see_every_record_once_while_a_slot_changes(own_settings: Settings) -> None:
    require_service("Node.js", lambda: subprocess.run(["node", "--version"], check=True, capture_output=True))
    require_service("wampy (npm ci in frontend)", lambda: os.stat(ROOT / "frontend/node_modules/wampy"))
    with up(own_settings) as services, timbr_wamp.connect(services["url"], services["token"]) as client:
        machine = prepared(client)
        before = machine.status.revision
        script = node_reader(services["url"], services["token"], client.kernels()[0].kernel_id)
        with reader(machine, MESSAGES) as seen:
            machine.source = SOURCE.format(pause=0.003)
            machine.start()
            wait_until(lambda: len(seen) > MESSAGES // 3, "a third of the records", 60)
            machine[0] = 'lambda number: ["after", number]'
        after = machine.status.revision
        output, _ = script.communicate(timeout=90)
        status = machine.status
    check_complete(seen, (before, after))
    found = json.loads(output.splitlines()[-1])
    assert found["count"] == found["distinct"] == MESSAGES
    assert found["ordered"]
    assert found["revisions"] == [before, after]
    assert (status.put, status.processed, status.errored, status.queue_size) == (MESSAGES, MESSAGES, 0, 0)


def test_no_record_is_lost_when_router_and_bridge_are_killed(own_settings: Settings) -> None:
    with up(own_settings) as services, timbr_wamp.connect(services["url"], services["token"]) as client:
        machine = prepared(client)
        before = machine.status.revision
        kernel_id = client.kernels()[0].kernel_id
        node = runtime.read_file(runtime.node_file(own_settings.runtime_dir), runtime.NodeFile)
        assert node is not None
        with reader(machine, MESSAGES) as seen:
            machine.source = SOURCE.format(pause=0.018)
            machine.start()
            wait_until(lambda: len(seen) > MESSAGES // 10, "the first records", 60)
            family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
            for process in family:
                process.kill()  # ours: the router that `up` above started
            count = len(seen)
            wait_until(lambda: len(seen) > count + 100, "records after the router came back", 60)
            machine[0] = 'lambda number: ["after", number]'
            bridge = runtime.read_file(runtime.bridge_file(own_settings.runtime_dir, kernel_id), runtime.BridgeFile)
            assert bridge is not None
            os.kill(bridge.pid, signal.SIGKILL)
            count = len(seen)
            wait_until(lambda: len(seen) > count + 100, "records after the bridge came back", 60)
        after = machine.status.revision
        status = machine.status
    check_complete(seen, (before, after))
    assert (status.put, status.processed, status.errored) == (MESSAGES, MESSAGES, 0)


def test_tls_needs_no_certificate_for_this_computer(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = own_settings.data_dir / "node.pem", own_settings.data_dir / "node.key"
    write_certificate(certificate, key)
    monkeypatch.setenv(f"{ENV_PREFIX}TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv(f"{ENV_PREFIX}TLS_KEY", str(key))
    with up(own_settings) as services:
        assert services["url"].startswith("wss://")
        assert services["page_url"].startswith("https://")
        with timbr_wamp.connect(settings=own_settings) as client:
            assert client.start_kernel(name="over_tls", host="lab").execute("1 + 1", timeout_s=30).status == "ok"
        trusted = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(services["page_url"].replace("127.0.0.1", "localhost"), context=trusted) as answer:
            assert answer.status == 200


def write_certificate(certificate: Path, key: Path) -> None:
    """Write a certificate that names ``localhost`` only, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key.chmod(0o600)


def test_the_thirty_first_message_over_wamp(own_settings: Settings) -> None:
    features = ROOT / "examples/data/earthquakes.json"
    with up(own_settings) as services, timbr_wamp.connect(services["url"], services["token"]) as client:
        kernel = client.start_kernel(name="quakes", host="lab")
        kernel.execute("import timbr_wamp; m = timbr_wamp.Machine()", timeout_s=30)
        wait_until(lambda: len(kernel.machines()) == 1, "the bridge sees the machine")
        machine = kernel.machine()
        machine[0] = (
            "import itertools\n"
            "count = itertools.count(1)\n"
            "def fails_on_every_31st(quake):\n"
            "    if next(count) % 31 == 0:\n"
            "        raise ValueError('the thirty-first: ' + quake['id'])\n"
            "    return quake['properties']['mag']\n"
        )
        machine[1] = "lambda magnitude: (magnitude or 0) * 2"
        with reader(machine, 320) as seen:
            machine.source = f"import json; json.load(open({str(features)!r}))['features'][:310]"
            machine.start()
            wait_until(lambda: machine.status.source.state == "exhausted" and len(seen) >= 310, "310 records", 30)
            status = machine.status
            assert machine.running
            assert (status.put, status.processed, status.errored) == (310, 300, 10)
            failures = machine.errors
            assert len(failures) == 10
            assert all(row.slot == 0 and row.exc_class == "ValueError" for row in failures)
            assert all("raise ValueError('the thirty-first: '" in row.exc_tb for row in failures)
            machine[0] = "lambda quake: quake['properties']['mag']"
            assert sorted(machine.retry_errors()) == sorted(row.oid for row in failures)
        first, again = seen[:310], seen[310:]
        assert len({record.oid for record in first}) == 310
        bad = [record for record in first if record.errored]
        assert len(bad) == 10
        assert [outcome.kind for outcome in bad[0].outcomes][:2] == ["error", "skipped"]
        assert bad[0].outcomes[1].value["_exception"]["exc_class"] == "UpstreamError"
        assert {record.oid for record in again} == {record.oid for record in bad}
        assert all(record.attempt == 2 and not record.errored for record in again)
        assert all(row.resolved for row in machine.errors)
        status = machine.status
        assert (status.put, status.processed, status.errored) == (320, 310, 10)
