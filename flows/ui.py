"""Prefect's and MLflow's pages on loopback, until Ctrl-C. A `make run` beside it uses this Prefect server."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from rich.console import Console

from flows.server import RECORD, start_server, stop
from flows.tracking import DEFAULT_STORE
from tasks.errors import GatehouseError

LOOPBACK = "127.0.0.1"


def main(argv: list[str] | None = None) -> int:
    """Start both servers, print their addresses, and stop both when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__)
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    arguments = parser.parse_args(argv)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started: list[int] = []
    try:
        for port in (arguments.prefect_port, arguments.mlflow_port):
            _refuse_port_in_use(port)
        store = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)
        options = ["--backend-store-uri", store]
        mlflow = subprocess.Popen(
            [
                sys.executable,
                "-m",
                *f"mlflow server --host {LOOPBACK} --port {arguments.mlflow_port}".split(),
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(mlflow.pid)
        prefect, _ = start_server(arguments.prefect_port, page=True)
        started.append(prefect.pid)
        console.print(f"Prefect http://{LOOPBACK}:{arguments.prefect_port}", highlight=False)
        console.print(f"MLflow  http://{LOOPBACK}:{arguments.mlflow_port}   (Ctrl-C stops both)", highlight=False)
        while mlflow.poll() is None and prefect.poll() is None:
            time.sleep(0.5)
        raise GatehouseError("One of the two servers stopped by itself; its log is in .gatehouse/logs.")
    except KeyboardInterrupt:
        return 0
    except GatehouseError as error:
        console.print(f"[bold red]{error}", highlight=False)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave one of the two behind
        for pid in started:
            stop(pid)
        RECORD.unlink(missing_ok=True)


def _refuse_port_in_use(port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((LOOPBACK, port))
        except OSError:
            raise GatehouseError(f"Port {port} on {LOOPBACK} is in use; stop what holds it or name another.") from None


if __name__ == "__main__":
    sys.exit(main())
