"""The monitoring page, served: `python -m flows.monitoring serve`. Read only, on loopback.

Requests and incidents are read anew for every answer; evidence, drift and advisories are as the last run of monitoring
found them, whenever that was: the page says both times.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flows.incidents import read_incidents
from flows.monitoring import REPORT, requests_of
from flows.serving import listen
from tasks.errors import GatehouseError
from tasks.files import read_json
from tasks.gate import utc_now
from tasks.monitoring.page import SCRIPT, STYLE_HASH, render
from tasks.params import Params, load_params

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(console: Console) -> None:
    """Serve until Ctrl-C; raises GatehouseError where the port is taken or monitoring has never run."""
    import uvicorn

    params = load_params()
    port = params.monitoring.page_port
    live_report(params)
    with listen(HOST, port, "monitoring.page_port") as listener:
        console.print(f"monitoring: http://{HOST}:{port}/; Ctrl-C stops", highlight=False, soft_wrap=True)
        config = uvicorn.Config(application(params), log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def application(params: Params) -> Starlette:
    """`/` the page, `/part` what stands in it, `/monitoring.json` the report, `/live.js` the script."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    seconds = params.monitoring.page_seconds

    # Not async: Starlette runs these in threads, since reading the log takes a while.
    def page(_: Request) -> Response:
        return HTMLResponse(render(live_report(params), live_at=utc_now(), seconds=seconds), headers=HEADERS)

    def part(_: Request) -> Response:
        return HTMLResponse(render(live_report(params), live_at=utc_now(), part=True), headers=HEADERS)

    def report(_: Request) -> Response:
        return JSONResponse(live_report(params), headers=HEADERS)

    def script(_: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript", headers=HEADERS)

    def unable(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), status_code=503, headers=HEADERS)

    return Starlette(
        routes=[Route("/", page), Route("/part", part), Route("/monitoring.json", report), Route("/live.js", script)],
        # A foreign page whose name was made to point here must not read this one.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={GatehouseError: unable},
    )


def live_report(params: Params) -> dict[str, Any]:
    """The last report, with requests and incidents as they are now."""
    report: dict[str, Any] = read_json(REPORT)
    if "incidents" not in report:
        raise GatehouseError(f"{REPORT} is of another version; run `make monitor` first.")
    requests, dropped = requests_of(params, time.time())
    incidents = [i.model_dump(mode="json") for i in read_incidents()]
    return {**report, "requests": requests.model_dump(mode="json"), "dropped": dropped, "incidents": incidents}
