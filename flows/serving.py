"""Serve the champion, if its evidence verifies: `python -m flows.serving`, which is what `make serve` runs.

No stage and no Prefect flow: a process that stays. The alias `champion` only says where to look; what is served is
what the evidence proves, checked with the operator's own public key.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tasks.errors import GatehouseError
from tasks.params import Params, load_params

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flows.champion import ProvenChampion
    from tasks.serving.log import RequestLog

BACKLOG = 128
ACCOUNT_KEY = Path(".gatehouse/keys/accounts.key")  # of the pseudonyms in the log
MAX_CONNECTIONS = 64  # together with serving.max_request_bytes this bounds what bodies take in memory


def main() -> int:
    """Bind, verify, load, serve; anything the operator can mend is one sentence and exit code 1."""
    console = Console(width=160 if not sys.stdout.isatty() else None)

    def say(text: str, style: str = "") -> None:
        console.print(f"serving: {text}", style=style, highlight=False, soft_wrap=True, markup=False)

    # uvicorn answers what is under way and then raises the signal again, which would end us with the log unwritten.
    signal.signal(signal.SIGTERM, _stop)
    try:
        params = load_params()
        # The port first: finding it taken should not take as long as loading a model.
        with listen(params.serving.host, params.serving.port) as listener:
            if not is_loopback(listener):
                say(
                    f"{params.serving.host} can be reached from other machines, without authentication or encryption; "
                    "put a proxy that has both in front, or set serving.host to 127.0.0.1.",
                    "bold yellow",
                )
            serve(params, listener, say)
    except GatehouseError as error:
        say(str(error), "bold red")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises GatehouseError where the port is taken or the host is none of this machine's."""
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
            f"Cannot listen on {host}:{port} ({error.strerror}); stop what uses it or set serving.port to a free port."
        ) from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(params: Params, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Load the proven champion and answer on `listener` until SIGTERM or SIGINT."""
    import torch
    import uvicorn

    from flows.champion import load_champion

    torch.set_num_threads(params.run.threads)
    champion = load_champion(params.promotion)
    log = open_log(params)
    try:
        app = application(params, champion, log)
        host, port = listener.getsockname()[:2]
        say(
            f"{params.promotion.model_name} version {champion.version} ({champion.proven.sha256[:12]}), evidence "
            f"verified, answers with {champion.proven.policy.output} on "
            f"http://{f'[{host}]' if ':' in host else host}:{port}/invocations; requests are logged to "
            f"{params.serving.log}; Ctrl-C stops"
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # an address in a header is what the client says, not where it is
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=10,
            backlog=BACKLOG,
        )
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
    return RequestLog(s.log, max_rows=s.log_rows, max_days=s.log_days, mask=mask)


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


def application(params: Params, champion: ProvenChampion, log: RequestLog) -> FastAPI:
    """The service, with the limits of params.yaml, and with images prepared as the champion's own data were."""
    from tasks.data.decode import image_from_bytes
    from tasks.serving.app import create_app
    from tasks.serving.champion import Champion
    from tasks.serving.service import Limits, Service

    proven, spec = champion.proven, champion.proven.record.spec
    how = champion.preparation()
    prepare = partial(
        image_from_bytes,
        side=spec.image_size,
        channels=spec.channels,
        remedy=how.remedy,
        border_fraction=how.border_fraction,
        corner_fraction=how.corner_fraction,
    )
    service = Service(
        Champion(
            champion.model, spec, params.promotion.model_name, champion.version, proven.sha256, proven.policy.output
        ),
        prepare,
        Limits(params.serving.max_request_bytes, params.serving.max_images),
        log,
    )
    return create_app(service, versions={"gatehouse": version("gatehouse"), "mlflow": version("mlflow")})


if __name__ == "__main__":
    sys.exit(main())
