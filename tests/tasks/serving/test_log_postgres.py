"""The request log in a real PostgreSQL, which is killed, stopped and filled with strangers' tables."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")

from log_tools import entry

from tasks.errors import GatehouseError
from tasks.serving.log import RequestLog, read_history
from tasks.serving.log.writer import SteadyClock

PASSWORD = "a secret of the test"


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int

    def run(self, *command: str) -> None:
        """As the user postgres where we are root, which PostgreSQL refuses to run as."""
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            command, check=True, user=user, group=user, extra_groups=[] if user else None, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=8MB"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-t", "60", "-o", options, "start")  # fmt: skip # noqa: E501

    def stop(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process of its."""
        master = psutil.Process(int((self.folder / "data/postmaster.pid").read_text().split()[0]))
        for process in [master, *master.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs([master], timeout=20)
        (self.folder / "data/postmaster.pid").unlink()

    def url(self, database: str) -> str:
        engine = sa.create_engine(f"postgresql+psycopg://gate:{PASSWORD}@127.0.0.1:{self.port}/postgres")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        engine.dispose()
        return f"postgresql://gate@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def server():
    missing = [program for program in ("initdb", "pg_ctl", "postgres") if not shutil.which(program)]
    if missing:
        pytest.skip(f"PostgreSQL is not on PATH: {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-pg-"))
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(folder, probe.getsockname()[1])
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    server.run("initdb", "-D", f"{folder}/data", "-U", "gate", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-N")  # fmt: skip # noqa: E501
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def password(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


def test_it_keeps_reads_caps_and_ages_as_sqlite_does(server):
    url = server.url("kept")
    log = RequestLog(url, max_rows=100, max_days=30, clock=SteadyClock(0.0))
    log.put(entry(1, when=time.time() - 40 * 86_400))
    for _ in range(70):
        log.put(replace(entry(2), guards=("backdoor",)))
    log.close()
    again = RequestLog(url, max_rows=100, max_days=30, clock=SteadyClock(0.0))
    again.put(replace(entry(2), account="last"))
    again.close()
    history = read_history(url, since=0)
    assert len(history.images) == 100
    assert history.images["sketch"].eq(bytes(range(32))).all()
    assert history.requests["account"].iloc[-1] == "last"
    assert set(history.requests["guards"]) == {"backdoor", ""}
    assert history.requests["time"].min() > time.time() - 3600
    assert len(read_history(url, since=time.time() + 60).requests) == 0


def test_nothing_is_lost_or_doubled_when_postgresql_is_killed_under_load(server, capsys):
    url = server.url("killed")
    log = RequestLog(url, max_rows=1_000_000, max_days=30, max_waiting=1_000_000)
    sent, stop = [0], threading.Event()

    def load() -> None:
        while not stop.is_set():
            log.put(replace(entry(1), latency_ms=float(sent[0])))
            sent[0] += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=load)
    thread.start()
    for _ in range(2):
        seen = sent[0]
        while sent[0] < seen + 300:
            time.sleep(0.01)
        server.kill()
        server.start()
    stop.set()
    thread.join()
    log.close(timeout=30)
    history = read_history(url, since=0)
    assert log.dropped == history.dropped == 0
    assert history.requests["latency_ms"].tolist() == [float(i) for i in range(sent[0])]
    assert len(history.images) == sent[0]
    said = capsys.readouterr().err
    assert said.count("they wait") == said.count("takes entries again") <= 2
    assert PASSWORD not in said


def test_a_bound_that_is_reached_while_it_is_away_is_counted(server):
    url = server.url("away")
    log = RequestLog(url, max_rows=1000, max_days=30, max_waiting=20)
    server.kill()
    kept = sum(log.put(entry(1)) for _ in range(50))
    server.start()
    log.close(timeout=30)
    history = read_history(url, since=0)
    assert kept == len(history.requests) == 10
    assert log.dropped == history.dropped == 40


def test_a_commit_that_was_not_confirmed_is_not_repeated(server):
    log = RequestLog(server.url("twice"), max_rows=1000, max_days=30)
    for _ in range(2):
        log._store.write([entry(2)], 3, writer="w", number=1)
    history = log._store.read(0)
    log.close()
    assert (len(history.requests), len(history.images), history.dropped) == (1, 2, 3)


def test_a_server_that_is_not_there_or_refuses_ends_the_start_with_one_sentence(server, monkeypatch):
    url = server.url("refused")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(GatehouseError, match="authentication failed"):
        RequestLog(url, max_rows=1, max_days=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"postgresql://gate@127.0.0.1:{probe.getsockname()[1]}/x"
        with pytest.raises(GatehouseError, match="cannot be used"):
            read_history(nobody, since=0)


def test_a_database_with_tables_of_another_kind_is_refused(server):
    url = server.url("strangers")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE requests (a integer)")
    with pytest.raises(GatehouseError, match="another kind"):
        RequestLog(url, max_rows=1, max_days=1)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["requests"]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://gate:hidden@127.0.0.1/x", "holds a password"),
        ("postgresql://gate@127.0.0.1/x?password=hidden", "holds a password"),
        ("mysql://gate@127.0.0.1/x", "'mysql'"),
        ("postgresql://gate@127.0.0.1:port/x", "cannot be read"),
    ],
)
def test_urls_that_are_refused_show_no_password(url, why):
    with pytest.raises(GatehouseError, match=why) as refusal:
        RequestLog(url, max_rows=1, max_days=1)
    assert "hidden" not in str(refusal.value)
