"""The HTTP service: MLflow's scoring protocol and the Open Inference Protocol over the champion of the moment."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tasks.risk import Budget
from tasks.serving import protocol, v2
from tasks.serving.bodies import Bodies, busy
from tasks.serving.budgets import Budgets
from tasks.serving.champion import Answer
from tasks.serving.document import openapi
from tasks.serving.errors import BAD_REQUEST, RequestError
from tasks.serving.keys import KeyRing
from tasks.serving.log import Entry, ImageEntry
from tasks.serving.metrics import CONTENT_TYPE, Meter
from tasks.serving.service import Deployment, Service

CODES = {404: "ENDPOINT_NOT_FOUND"}
# Refusals that cost nothing to provoke are counted all, but logged only so often: else they would push out the rest.
CHEAP = (401, 429, 503)
LOGGED_REFUSALS = Budget(rate_per_minute=60, rate_per_minute_all=600)
Take = Callable[[int], None]  # spend so many images of the budget, or raise RequestError
Scored = tuple[dict[str, Any], tuple[ImageEntry, ...], tuple[str, ...]]  # what is answered; for the log: images, guards
Score = Callable[[Service, bytes, Take], Scored]


def create_app(
    deployment: Deployment, *, versions: dict[str, str], keys: KeyRing, budgets: Budgets | None = None
) -> FastAPI:
    """The application.

    Args:
        versions: package → version, said by GET /version beside the model's own.
        budgets: what accounts have spent already; none by default.
    """
    meter, bodies = Meter(deployment), Bodies(deployment.limits)
    spending, noted = budgets or Budgets(), Budgets()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.limiter = CapacityLimiter(deployment.limits.scoring_threads)
        yield

    # FastAPI's own document knows neither bodies nor refusals, and its pages load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.deployment = deployment
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(Exception, _internal_error)

    def identified(request: Request) -> str:
        return keys.account(request.headers, _address(request))

    known = [Depends(identified)]

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        """200 while a proven champion is in service."""
        deployment.current()
        return Response("\n", media_type="application/json")

    @app.get("/version", dependencies=known)
    async def version() -> dict[str, Any]:
        """Which model answers, what it takes, and what it reveals."""
        champion = deployment.current().champion
        return {
            **versions,
            "model": champion.name,
            "model_version": champion.version,
            "model_sha256": champion.sha256,
            "classes": champion.spec.classes,
            "input_shape": [-1, champion.spec.channels, champion.spec.image_size, champion.spec.image_size],
            "output": champion.output,
        }

    @app.get("/metrics", dependencies=known)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(meter.render(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/openapi.json", dependencies=known)
    async def document() -> dict[str, Any]:
        """What is asked and answered here, for the champion of this moment."""
        service = deployment.current()
        return openapi(service.champion, service.shape)

    async def answered(request: Request, score: Score) -> Response:
        """Read, score, log and count one request; `score` speaks the protocol that was asked in."""
        started, account, model = time.perf_counter(), _address(request), ""
        images: tuple[ImageEntry, ...] = ()
        guards: tuple[str, ...] = ()
        try:
            account = identified(request)
            service = deployment.current()
            model = service.champion.sha256
            spending.check(account, service.budget)
            protocol.check_content_type(request.headers.get("content-type", ""))
            async with bodies.read(request) as body:
                if app.state.limiter.statistics().tasks_waiting >= deployment.limits.waiting_requests:
                    raise busy()
                work = partial(score, service, body, partial(spending.take, account, service.budget))
                content, images, guards = await anyio.to_thread.run_sync(work, limiter=app.state.limiter)
            headers = {"X-Model-Version": service.champion.version, "X-Model-SHA256": model}
            response, error = JSONResponse(content, headers=headers), ""
        except RequestError as refusal:
            response, error = _refusal(request, refusal), refusal.code
            if refusal.status not in CHEAP:
                spending.spend(account, 1)  # what is wrong costs too: else it could be asked without end
        entry = Entry(
            time=time.time(),
            account=account,
            status=response.status_code,
            error=error,
            model=model,
            latency_ms=round((time.perf_counter() - started) * 1000, 3),
            images=images,
            guards=guards,
        )
        if response.status_code not in CHEAP or noted.fits(account, LOGGED_REFUSALS):
            deployment.log.put(entry)
        meter.count(entry)
        return response

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        """Classify images."""
        return await answered(request, _score)

    @app.get("/v2", dependencies=known)
    async def server() -> dict[str, Any]:
        """The server, as the Open Inference Protocol describes one."""
        return {"name": "gatehouse", "version": versions.get("gatehouse", ""), "extensions": []}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """A proven champion is in service."""
        deployment.current()
        return {"ready": True}

    def current(version: str | None) -> Service:
        service = deployment.current()
        if version not in (None, service.champion.version):
            raise RequestError("This version is not in service.", code=CODES[404], status=404)
        return service

    # The champion under its name, with and without its version; every other name is unknown.
    for path in (f"/v2/models/{deployment.name}", f"/v2/models/{deployment.name}/versions/{{version}}"):

        @app.get(path, dependencies=known)
        async def model(version: str | None = None) -> dict[str, Any]:
            """What the model takes and answers."""
            service = current(version)
            return v2.metadata(service.champion, service.shape)

        @app.get(f"{path}/ready", dependencies=known)
        async def model_ready(version: str | None = None) -> dict[str, Any]:
            """The model answers."""
            return {"name": current(version).champion.name, "ready": True}

        @app.post(f"{path}/infer")
        async def infer(request: Request, version: str | None = None) -> Response:
            """Classify images."""
            return await answered(request, partial(_score_v2, version))

    return app


def _score(service: Service, body: bytes, take: Take) -> Scored:
    images = protocol.parse(body, service.shape, service.decoded)
    answers, entries, guards = _classified(service, images, take)
    return {"predictions": [a.revealed for a in answers]}, entries, guards


def _score_v2(version: str | None, service: Service, body: bytes, take: Take) -> Scored:
    if version not in (None, service.champion.version):
        raise RequestError("This version is not in service.", code=CODES[404], status=404)
    images, asked = v2.parse(body, service.shape, service.champion, service.decoded)
    answers, entries, guards = _classified(service, images, take)
    return v2.respond(service.champion, answers, asked), entries, guards


def _classified(
    service: Service, images: np.ndarray, take: Take
) -> tuple[list[Answer], tuple[ImageEntry, ...], tuple[str, ...]]:
    take(len(images))
    answers, entries = service.classified(images)
    return answers, entries, tuple(sorted({guard for a in answers for guard in a.refused_by}))


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _refusal(request: Request, error: RequestError) -> JSONResponse:
    """A refusal in the form of the protocol that was asked in."""
    # A body that was not read to its end must not be taken for the next request.
    headers = {**error.headers, **({"Connection": "close"} if error.status in (408, 413) else {})}
    content = {"error": error.message} if request.url.path.startswith("/v2") else error.body()
    return JSONResponse(content, status_code=error.status, headers=headers)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _refusal(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    message = "There is no such endpoint." if error.status_code == 404 else str(error.detail)
    refusal = RequestError(
        message,
        code=CODES.get(error.status_code, BAD_REQUEST),
        status=error.status_code,
        headers=error.headers,
    )
    return _refusal(request, refusal)


async def _internal_error(request: Request, _: Exception) -> Response:
    """A fault of ours: said without anything of the inside; the trace goes to the server."""
    fault = RequestError("The service failed; its log says how.", code="INTERNAL_ERROR", status=500)
    return _refusal(request, fault)
