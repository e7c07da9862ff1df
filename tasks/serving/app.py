"""The HTTP service: MLflow's scoring protocol over one proven champion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasks.serving import protocol, v2
from tasks.serving.errors import BAD_REQUEST, RequestError
from tasks.serving.log import Entry, ImageEntry
from tasks.serving.metrics import CONTENT_TYPE, Meter
from tasks.serving.protocol import Shape
from tasks.serving.service import Limits, Service

CODES = {404: "ENDPOINT_NOT_FOUND"}
Scored = tuple[dict[str, Any], tuple[ImageEntry, ...]]  # what is answered, and what is logged of the images
Score = Callable[[bytes], Scored]
Refuse = Callable[[RequestError], dict[str, str]]


def create_app(service: Service, *, versions: dict[str, str]) -> FastAPI:
    """The application. `versions` (package → version) is what GET /version says beside the model's own."""
    champion = service.champion
    meter = Meter(champion, service.log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.limiter = CapacityLimiter(service.limits.scoring_threads)
        yield

    # The interactive pages load scripts from elsewhere; the document itself stays.
    app = FastAPI(title="Gatehouse", version=champion.version, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    headers = {"X-Model-Version": champion.version, "X-Model-SHA256": champion.sha256}

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        """200 while the champion is loaded."""
        return Response("\n", media_type="application/json")

    @app.get("/version")
    async def version() -> dict[str, Any]:
        """Which model answers, what it takes, and what it reveals."""
        return {
            **versions,
            "model": champion.name,
            "model_version": champion.version,
            "model_sha256": champion.sha256,
            "classes": champion.spec.classes,
            "input_shape": [-1, champion.spec.channels, champion.spec.image_size, champion.spec.image_size],
            "output": champion.output,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(meter.render(), headers={"Content-Type": CONTENT_TYPE})

    async def answered(request: Request, score: Score, refuse: Refuse) -> Response:
        """Read, score, log and count one request; `score` and `refuse` speak the protocol that was asked in."""
        started = time.perf_counter()
        images: tuple[ImageEntry, ...] = ()
        try:
            protocol.check_content_type(request.headers.get("content-type", ""))
            body = await _read(request, service.limits)
            content, images = await anyio.to_thread.run_sync(partial(score, body), limiter=app.state.limiter)
            response, error = JSONResponse(content, headers=headers), ""
        except RequestError as refusal:
            response, error = _refusal(refusal, refuse), refusal.code
        entry = Entry(
            time=time.time(),
            account=request.client.host if request.client else "",
            status=response.status_code,
            error=error,
            model=champion.sha256,
            latency_ms=round((time.perf_counter() - started) * 1000, 3),
            images=images,
        )
        service.log.put(entry)
        meter.count(entry)
        return response

    @app.post("/invocations", openapi_extra=_document(service.shape))
    async def invocations(request: Request) -> Response:
        """Classify images."""
        return await answered(request, partial(_score, service), RequestError.body)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """The server, as the Open Inference Protocol describes one."""
        return {"name": "gatehouse", "version": versions.get("gatehouse", ""), "extensions": []}

    @app.get("/v2/health/live")
    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """The champion is loaded."""
        return {"live": True, "ready": True}

    # The champion under its name, with and without its version; every other name is unknown.
    for path in (f"/v2/models/{champion.name}", f"/v2/models/{champion.name}/versions/{champion.version}"):

        @app.get(path)
        async def model() -> dict[str, Any]:
            """What the model takes and answers."""
            return v2.metadata(champion, service.shape)

        @app.get(f"{path}/ready")
        async def model_ready() -> dict[str, Any]:
            """The model answers."""
            return {"name": champion.name, "ready": True}

        @app.post(f"{path}/infer", openapi_extra=v2.document(service.shape))
        async def infer(request: Request) -> Response:
            """Classify images."""
            return await answered(request, partial(_score_v2, service), lambda refusal: {"error": refusal.message})

    return app


def _score(service: Service, body: bytes) -> Scored:
    images = protocol.parse(body, service.shape, service.decoded)
    answers, entries = service.classified(images)
    return {"predictions": [a.revealed for a in answers]}, entries


def _score_v2(service: Service, body: bytes) -> Scored:
    images, asked = v2.parse(body, service.shape, service.champion, service.decoded)
    answers, entries = service.classified(images)
    return v2.respond(service.champion, answers, asked), entries


async def _read(request: Request, limits: Limits) -> bytes:
    """The body, refused as soon as it is too long, whether its length was announced or not."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.max_request_bytes:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            parts = bytearray()
            async for part in request.stream():
                parts += part
                if len(parts) > limits.max_request_bytes:
                    raise _too_long(limits)
            return bytes(parts)
    except TimeoutError:
        text = f"The body did not arrive within {limits.body_seconds:g} s."
        raise RequestError(text, code=BAD_REQUEST, status=408) from None
    except ClientDisconnect:
        raise RequestError("The client went away before its body had arrived.", code=BAD_REQUEST) from None


def _too_long(limits: Limits) -> RequestError:
    return RequestError(
        f"The body is longer than {limits.max_request_bytes} bytes (serving.max_request_bytes); send fewer images.",
        code=BAD_REQUEST,
        status=413,
    )


def _refusal(error: RequestError, refuse: Refuse) -> JSONResponse:
    # A body that was not read to its end must not be taken for the next request.
    headers = {"Connection": "close"} if error.status in (408, 413) else None
    return JSONResponse(refuse(error), status_code=error.status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the protocol's form."""
    assert isinstance(error, HTTPException)
    message = "There is no such endpoint." if error.status_code == 404 else str(error.detail)
    if request.url.path.startswith("/v2"):
        return JSONResponse({"error": message}, error.status_code, error.headers)
    code = CODES.get(error.status_code, BAD_REQUEST)
    return JSONResponse({"error_code": code, "message": message}, error.status_code, error.headers)


async def _internal_error(_: Request, __: Exception) -> Response:
    """A fault of ours: said in the protocol's form, without anything of the inside; the trace goes to the server."""
    return JSONResponse({"error_code": "INTERNAL_ERROR", "message": "The service failed; its log says how."}, 500)


def _document(shape: Shape) -> dict[str, Any]:
    """The request body in the OpenAPI document."""
    numbers: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
    for size in (shape.side, shape.side, shape.channels):
        numbers = {"type": "array", "items": numbers, "minItems": size, "maxItems": size}
    images = {"type": "array", "items": numbers, "minItems": 1, "maxItems": shape.max_images}
    file = {"type": "string", "contentEncoding": "base64", "description": "a PNG or JPEG file"}
    row = {"type": "object", "properties": {"image": file}, "required": ["image"], "additionalProperties": False}
    table = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "const": ["image"]},
            "data": {"type": "array", "items": {"type": "array", "items": file, "minItems": 1, "maxItems": 1}},
            "index": {"type": "array"},
        },
        "required": ["columns", "data"],
    }
    forms = {
        "inputs": images,
        "instances": images,
        "dataframe_records": {"type": "array", "items": row, "minItems": 1, "maxItems": shape.max_images},
        "dataframe_split": table,
    }
    schema = {"oneOf": [{"type": "object", "properties": {k: v}, "required": [k]} for k, v in forms.items()]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
