"""The local Prefect server: shared while who started it lives, stopped once that one is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import server
from flows.server import RECORD, free_port, prefect_server
from tasks.files import read_json, write_json

ANSWERS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[2])), Healthy).serve_forever()
"""


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Something that answers as a Prefect server does, recorded as started by this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", ANSWERS, "prefect", str(port)])
    url, owner = f"http://127.0.0.1:{port}/api", [os.getpid(), psutil.Process().create_time()]
    assert server._healthy(url, 20)
    write_json(RECORD, {"pid": process.pid, "url": url, "owner": owner})
    yield process
    process.kill()
    process.wait()


def test_a_server_whose_starter_lives_is_used_and_left_alone(running: subprocess.Popen[bytes]) -> None:
    with prefect_server() as url:
        assert url == read_json(RECORD)["url"] == os.environ["PREFECT_API_URL"]
    assert running.poll() is None
    assert RECORD.exists()
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.parametrize("owner", ["gone", "number given anew", "older record"])
def test_a_server_that_was_left_behind_is_stopped(running: subprocess.Popen[bytes], owner: str) -> None:
    record = read_json(RECORD)
    if owner == "gone":
        brief = subprocess.Popen([sys.executable, "-c", ""])
        record["owner"] = [brief.pid, psutil.Process(brief.pid).create_time()]
        brief.wait()
    elif owner == "number given anew":
        record["owner"][1] -= 1000
    else:
        del record["owner"]
    write_json(RECORD, record)
    assert server._running() is None
    assert not psutil.pid_exists(running.pid)
    assert not RECORD.exists()
