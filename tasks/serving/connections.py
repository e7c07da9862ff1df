"""uvicorn's connections with an end to patience: slow clients lose theirs, and never keep others out.

uvicorn alone waits for the headers of a request without limit. Here they have `HEADER_SECONDS`, and where there are
more connections than `MAX_CONNECTIONS`, the one that has kept us waiting longest makes room. The time of a body is
limited where it is read (`tasks.serving.bodies`).
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from the connection, or from the first byte of a further request, to the end of its headers
MAX_CONNECTIONS = 512  # below the 1 024 files that a process may usually open


class ImpatientProtocol(H11Protocol):
    """One connection. The states are h11's: the client's turn is over once its request is complete."""

    _since = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [c for c in self.connections if isinstance(c, ImpatientProtocol) and c._waiting]
            if waiting:
                min(waiting, key=lambda c: c._since).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    @property
    def _waiting(self) -> bool:
        """Do we wait for the client, be it for headers or for the rest of a body?"""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _watch(self) -> None:
        """Start the clock where the client owes us bytes that nobody else times, and stop it where it does not."""
        owed = self._waiting and (self.conn.their_state is h11.IDLE or self.conn.our_state is not h11.SEND_RESPONSE)
        if not owed or self.transport.is_closing():
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
