"""Reading a request's body: not too long, not too slowly, and all bodies together within a fixed amount of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from tasks.serving.errors import BAD_REQUEST, UNAVAILABLE, RequestError
from tasks.serving.service import Limits


class Bodies:
    """The bodies that are in memory now. For one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0  # bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, counted as held until the block ends.

        Raises:
            RequestError: 413 as soon as it is too long, whether its length was announced or not; 408 where it takes
                too long; 503 where all bodies together are too many bytes.
        """
        limits, parts = self._limits, bytearray()
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limits.max_request_bytes:
            raise _too_long(limits)
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    parts += part
                    self._held += len(part)
                    if len(parts) > limits.max_request_bytes:
                        raise _too_long(limits)
                    if self._held > limits.waiting_bodies * limits.max_request_bytes:
                        raise busy()
            yield bytes(parts)
        except TimeoutError:
            text = f"The body did not arrive within {limits.body_seconds:g} s."
            raise RequestError(text, code=BAD_REQUEST, status=408) from None
        except ClientDisconnect:
            raise RequestError("The client went away before its body had arrived.", code=BAD_REQUEST) from None
        finally:
            self._held -= len(parts)


def busy() -> RequestError:
    """Too much is waiting already."""
    return RequestError(
        "The service is busy; ask again in a second.", code=UNAVAILABLE, status=503, headers={"Retry-After": "1"}
    )


def _too_long(limits: Limits) -> RequestError:
    return RequestError(
        f"The body is longer than {limits.max_request_bytes} bytes (serving.max_request_bytes); send fewer images.",
        code=BAD_REQUEST,
        status=413,
    )
