"""Serve the champion, if its evidence verifies: `python -m flows.serving`, which is what `make serve` runs.

No stage and no Prefect flow: a process that stays. The alias `champion` only says where to look; what is served is
what the evidence proves, checked with the operator's own public key.
"""

from __future__ import annotations

import ipaddress
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
    import numpy as np
    from fastapi import FastAPI

    from tasks.models.architectures import ModelSpec
    from tasks.serving.champion import Champion
    from tasks.serving.log import RequestLog

BACKLOG = 128
MAX_CONNECTIONS = 64  # together with serving.max_request_bytes this bounds what bodies take in memory


def main() -> int:
    """Bind, verify, load, serve; anything the operator can mend is one sentence and exit code 1."""
    console = Console(width=160 if not sys.stdout.isatty() else None)
    try:
        params = load_params()
        # The port first: finding it taken should not take as long as loading a model.
        with listen(params.serving.host, params.serving.port) as listener:
            if not is_loopback(listener):
                console.print(
                    f"[bold yellow]serving: {params.serving.host} can be reached from other machines, without "
                    "authentication or encryption; put a proxy that has both in front, or set serving.host: 127.0.0.1.",
                    highlight=False,
                )
            serve(params, listener, lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False))
    except GatehouseError as error:
        console.print(f"serving: {error}", style="bold red", highlight=False, soft_wrap=True, markup=False)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


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

    torch.set_num_threads(params.run.threads)
    champion = proven_champion(params)
    log = open_log(params)
    try:
        host, port = listener.getsockname()[:2]
        say(
            f"{champion.name} version {champion.version} ({champion.sha256[:12]}), evidence verified, answers with "
            f"{champion.output} on http://{f'[{host}]' if ':' in host else host}:{port}/invocations; "
            f"requests are logged to {params.serving.log}; Ctrl-C stops"
        )
        config = uvicorn.Config(
            application(params, champion, log),
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


def proven_champion(params: Params) -> Champion:
    """The model behind the alias, loaded from the very bytes that its evidence proves; GatehouseError otherwise."""
    from flows.registry import champion_folder
    from tasks.promotion.evidence import load_proven
    from tasks.promotion.keys import public_key_path, read_public_key
    from tasks.serving.champion import Champion

    name = params.promotion.model_name
    folder, number = champion_folder(name)
    key = read_public_key(public_key_path(params.promotion.signing_key))
    try:
        model, proven = load_proven(folder, public_key=key)
    except GatehouseError as error:
        raise GatehouseError(
            f"Not served: the alias champion of {name!r} points to version {number}, and its evidence does not verify: "
            f"{error}"
        ) from error
    return Champion(model, proven.record.spec, name, number, proven.sha256, proven.policy.output)


def open_log(params: Params) -> RequestLog:
    from tasks.serving.log import RequestLog

    s = params.serving
    return RequestLog(Path(s.log), max_rows=s.log_rows, max_days=s.log_days)


def application(params: Params, champion: Champion, log: RequestLog) -> FastAPI:
    """The service with the limits of params.yaml and the data stage's own preparation of images."""
    from tasks.serving.app import Limits, Service, create_app

    limits = Limits(params.serving.max_request_bytes, params.serving.max_images)
    service = Service(champion, preparation(params, champion.spec), limits, log)
    return create_app(service, versions={"gatehouse": version("gatehouse"), "mlflow": version("mlflow")})


def preparation(params: Params, spec: ModelSpec) -> Callable[[bytes], np.ndarray]:
    """What the data stage makes of a file, for this model's size and channels, with the remedy in params.yaml."""
    from tasks.data.decode import image_from_bytes

    return partial(
        image_from_bytes,
        side=spec.image_size,
        channels=spec.channels,
        remedy=params.data.remedy,
        border_fraction=params.data.border_fraction,
        corner_fraction=params.data.corner_fraction,
    )


if __name__ == "__main__":
    sys.exit(main())
