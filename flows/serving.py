"""Serve the champion, if its evidence verifies: `python -m flows.serving`, which is what `make serve` runs.

No stage and no Prefect flow: a process that stays. The alias `champion` only says where to look; what is served is
what the evidence proves, checked with the operator's own public key.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tasks.errors import GatehouseError
from tasks.params import Params, load_params
from tasks.serving.keys import add_key, read_keys, remove_keys

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tasks.serving.budgets import Budgets
    from tasks.serving.keys import KeyRing
    from tasks.serving.log import RequestLog
    from tasks.serving.service import Deployment

BACKLOG = 128
PENDING = Path(".gatehouse/requests.pending")  # what waits for the request log, through a kill of the process
ACCOUNT_KEY = Path(".gatehouse/keys/accounts.key")  # of the pseudonyms in the log


def main(arguments: Sequence[str] = ()) -> int:
    """Bind, verify, load, serve; anything the operator can mend is one sentence and exit code 1."""
    console = Console(width=160 if not sys.stdout.isatty() else None)

    def say(text: str, style: str = "") -> None:
        console.print(f"serving: {text}", style=style, highlight=False, soft_wrap=True, markup=False)

    if arguments:
        return manage_keys(arguments)
    # uvicorn answers what is under way and then raises the signal again, which would end us with the log unwritten.
    signal.signal(signal.SIGTERM, _stop)
    try:
        params = load_params()
        # The port first: finding it taken should not take as long as loading a model.
        with listen(params.serving.host, params.serving.port) as listener:
            _require_keys_off_loopback(params.serving.host, listener, say)
            serve(params, listener, say)
    except GatehouseError as error:
        say(str(error), "bold red")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def manage_keys(arguments: Sequence[str]) -> int:
    """`key ACCOUNT` prints a new API key once; `key --remove ACCOUNT` and `key --list` say what they did."""
    parser = argparse.ArgumentParser(prog="python -m flows.serving")
    command = parser.add_subparsers(required=True).add_parser("key", help="API keys of the service")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("account", nargs="?", help="print a new key of this account; it is shown once")
    what.add_argument("--remove", metavar="ACCOUNT", help="forget all keys of this account")
    what.add_argument("--list", action="store_true", help="accounts that have keys, and since when")
    given = parser.parse_args(arguments)
    try:
        if given.list:
            for key in read_keys():
                print(f"{key.account}  {key.created_at}  {key.sha256[:12]}")
        elif given.remove:
            print(f"{remove_keys(given.remove)} key(s) of {given.remove} removed; a running service knows at once.")
        else:
            print(add_key(given.account))
    except GatehouseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _require_keys_off_loopback(host: str, listener: socket.socket, say: Callable[[str, str], None]) -> None:
    """Whoever can reach the service must have a key: without any key there it does not start."""
    if is_loopback(listener):
        return
    if not read_keys():
        raise GatehouseError(
            f"serving.host {host} can be reached from other machines, and nobody has an API key; make one with "
            "`.venv/bin/python -m flows.serving key ACCOUNT`, or set serving.host to 127.0.0.1."
        )
    say(
        f"{host} can be reached from other machines. API keys are required, but nothing is encrypted: keys and images "
        "can be read on the way; put a proxy with TLS in front.",
        "bold yellow",
    )


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def listen(host: str, port: int, setting: str = "serving.port") -> socket.socket:
    """A listening socket; raises GatehouseError where the port is taken or the host is none of this machine's.

    Args:
        setting: the key of params.yaml that the port came from.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise GatehouseError(f"serving.host {host!r} is no address ({error.strerror}); use 127.0.0.1.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening at once keeps the port: two sockets that only bind may share it.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise GatehouseError(
            f"Cannot listen on {host}:{port} ({error.strerror}); stop what uses it or set {setting} to a free port."
        ) from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(params: Params, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Load the proven champion and answer on `listener` until SIGTERM or SIGINT; look for a new one meanwhile."""
    import torch
    import uvicorn

    from flows.champion import load_champion
    from flows.deployment import make_service, spent_before, watching
    from tasks.serving.connections import ImpatientProtocol
    from tasks.serving.keys import KeyRing
    from tasks.serving.service import Deployment

    torch.set_num_threads(params.run.threads)
    champion = load_champion(params.promotion)
    log = open_log(params)
    try:
        deployment = Deployment(make_service(params, champion, log))
        keys = KeyRing(required=params.serving.require_keys or not is_loopback(listener))
        app = application(deployment, keys, spent_before(params))
        host, port = listener.getsockname()[:2]
        say(
            f"{params.promotion.model_name} version {champion.version} ({champion.proven.sha256[:12]}), evidence "
            f"verified, answers with {champion.proven.policy.output} on "
            f"http://{f'[{host}]' if ':' in host else host}:{port}/invocations; requests are logged to "
            f"{params.serving.log}; Ctrl-C stops"
        )
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            proxy_headers=False,  # an address in a header is what the client says, not where it is
            server_header=False,
            timeout_graceful_shutdown=10,
            backlog=BACKLOG,
        )
        with watching(params, deployment, champion, say):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        log.close()


def open_log(params: Params) -> RequestLog:
    """The request log, keeping what serving.log_accounts and serving.log_sketches allow."""
    from tasks.serving.log import RequestLog
    from tasks.serving.log.privacy import mask_for

    s = params.serving
    key = secret(ACCOUNT_KEY) if s.log_accounts == "hash" else b""
    mask = mask_for(s.log_accounts, sketches=s.log_sketches, key=key)
    return RequestLog(s.log, max_rows=s.log_rows, max_days=s.log_days, journal=PENDING, mask=mask)


def secret(path: Path) -> bytes:
    """32 random bytes, made once, that their owner alone can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass  # it was made at an earlier start
    if len(key := path.read_bytes()) != 32:
        raise GatehouseError(f"{path} does not hold 32 bytes; delete it, and accounts get new pseudonyms.")
    return key


def application(deployment: Deployment, keys: KeyRing, budgets: Budgets | None = None) -> FastAPI:
    from tasks.serving.app import create_app

    versions = {"gatehouse": version("gatehouse"), "mlflow": version("mlflow")}
    return create_app(deployment, versions=versions, keys=keys, budgets=budgets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
