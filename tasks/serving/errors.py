"""A refusal in MLflow's own form: `{"error_code": "INVALID_PARAMETER_VALUE", "message": "..."}` with a 4xx status."""

from __future__ import annotations

from collections.abc import Mapping

BAD_REQUEST = "BAD_REQUEST"  # the request is not of the protocol's form
UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"  # nothing is wrong with the request; the service cannot answer it now
INVALID = "INVALID_PARAMETER_VALUE"  # the form is right, a value in it is not


class RequestError(Exception):
    """What is wrong with a request and how to mend it. The message never repeats more than a short ASCII excerpt."""

    def __init__(
        self, message: str, *, code: str = INVALID, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.headers = dict(headers or {})

    def body(self) -> dict[str, str]:
        return {"error_code": self.code, "message": self.message}


def excerpt(value: object, length: int = 40) -> str:
    """A value as short ASCII: what a client sends may hold anything, lone surrogates included."""
    text = ascii(value[: 2 * length] if isinstance(value, str) else value)
    return text if len(text) <= length else text[: length - 1] + "…"
