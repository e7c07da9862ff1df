"""A local Prefect server for the time of a run, unless PREFECT_API_URL names one already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from tasks.errors import GatehouseError
from tasks.files import read_json, write_json

HOME = Path(".gatehouse/prefect")
LOG = Path(".gatehouse/logs/prefect-server.log")
RECORD = Path(".gatehouse/prefect-server.json")
PATIENCE = 90  # seconds; healthy after about 8 on two free cores


def prefect_environment() -> dict[str, str]:
    """Settings that keep Prefect inside the project: its home, no telemetry, no cloud prompts, quiet logs."""
    return {
        "PREFECT_HOME": str(HOME.resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Everything goes to the server's log pages; the terminal is the lifecycle's own.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_CLI_PROMPT": "false",
    }


@contextmanager
def prefect_server() -> Iterator[str]:
    """Yield the URL of a healthy API; a server started here is stopped here, also after an error."""
    os.environ.update({k: os.environ.get(k, v) for k, v in prefect_environment().items()})
    if url := os.environ.get("PREFECT_API_URL"):
        if not _healthy(url, 10):
            raise GatehouseError(f"PREFECT_API_URL is {url}, but nothing healthy answers there; start it or unset it.")
        yield url
        return
    if url := _running():
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
        return
    server, url = start_server(free_port())
    try:
        os.environ["PREFECT_API_URL"] = url
        yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        stop(server.pid)
        RECORD.unlink(missing_ok=True)


def start_server(port: int, host: str = "127.0.0.1", *, page: bool = False) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server on loopback and wait until it is healthy; its log is kept in .gatehouse/logs.

    `page` has it show Prefect's page too (`make ui`). While this process lives, others here may use the server.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://{host}:{port}/api"
    with LOG.open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
            + ([] if page else ["--no-ui"]),
            stdout=log,
            stderr=log,
            env={**os.environ, **prefect_environment(), "PREFECT_API_URL": url},
            start_new_session=True,
        )
    write_json(RECORD, {"pid": server.pid, "url": url, "owner": _identity(os.getpid())})
    if not _healthy(url, PATIENCE, server):
        stop(server.pid)
        RECORD.unlink(missing_ok=True)
        raise GatehouseError(f"Prefect's local server did not become healthy in {PATIENCE} s; its log is {LOG}.")
    return server, url


def server_url() -> str | None:
    """The API of a server that answers now: PREFECT_API_URL's, or the one that runs here; None where none does."""
    url = os.environ.get("PREFECT_API_URL") or (str(read_json(RECORD)["url"]) if RECORD.exists() else None)
    return url if url and _healthy(url, 3) else None


def _running() -> str | None:
    """The URL of a server that another process here holds; one that a killed process left behind is stopped."""
    if not RECORD.exists():
        return None
    record = read_json(RECORD)
    if _is_prefect(record["pid"]):
        owner = record.get("owner")
        if owner and owner == _identity(owner[0]) and _healthy(record["url"], 5):
            return str(record["url"])
        stop(record["pid"])
    RECORD.unlink(missing_ok=True)
    return None


def _identity(pid: int) -> list[float] | None:
    """A process by its number and the time it was started, since numbers are given anew; None where it is gone."""
    try:
        return [pid, psutil.Process(pid).create_time()]
    except psutil.NoSuchProcess:
        return None


def _is_prefect(pid: int) -> bool:
    """Whether this process is a Prefect server (a number may have been given to another process since)."""
    try:
        return "prefect" in psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def stop(pid: int, patience: float = 10) -> None:
    """Terminate a process and its descendants, kindly first."""
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        _signal(member, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=patience)
    for member in alive:
        _signal(member, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=patience)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _healthy(url: str, patience: float, process: subprocess.Popen[bytes] | None = None) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            return False
        try:
            with urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310  the scheme is ours or the operator's
                if answer.status == 200:
                    return True
        except (URLError, OSError):
            time.sleep(0.2)
    return False
