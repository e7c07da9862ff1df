"""MLflow's scoring protocol: from the bytes of a POST to /invocations to images as the model takes them.

Four forms of JSON, exactly one of them in a request, as `mlflow.pyfunc.scoring_server` reads them:
`inputs` or `instances` hold a nested list of floats, `dataframe_split` or `dataframe_records` a table with one column
`image` of base64 PNG or JPEG files. Everything else is a RequestError, never a crash.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tasks.serving.errors import BAD_REQUEST, RequestError, excerpt

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
COLUMN = "image"
Decode = Callable[[list[bytes]], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """What the model takes: float images (n, channels, side, side) in [0, 1], at most `max_images` in a request."""

    channels: int
    side: int
    max_images: int

    def __str__(self) -> str:
        return f"(n, {self.channels}, {self.side}, {self.side})"


def check_content_type(header: str) -> None:
    """Only `application/json`, in UTF-8; anything else is a 415."""
    kind, *parameters = (part.strip().lower() for part in header.split(";"))
    if kind != "application/json" or any(p.replace('"', "") != "charset=utf-8" for p in parameters if p):
        raise RequestError(
            f"Content type {excerpt(header)} is not served; send application/json in UTF-8.",
            code=BAD_REQUEST,
            status=415,
        )


def parse(body: bytes, shape: Shape, decode: Decode) -> np.ndarray:
    """Images of a request, float32 `shape` in [0, 1].

    Args:
        body: the request's body; its length was limited where it was read.
        decode: turns the files of a table's rows into images of the model's shape; raises RequestError.
    """
    form, value = _form(load(body))
    if form in ("inputs", "instances"):
        return array(value, shape)
    return decode_files(_records(value) if form == "dataframe_records" else _split(value), shape, decode)


def decode_files(files: list[Any], shape: Shape, decode: Decode, *, declared: Any = None) -> np.ndarray:
    """Images of base64 files; `declared` is the shape that the request states, where it states one."""
    count(len(files), shape)
    if declared is not None and declared != [len(files)]:
        raise RequestError(f"data holds {len(files)} files; the shape {excerpt(declared)} says otherwise.")
    return decode([_file(row, i) for i, row in enumerate(files)])


def load(body: bytes) -> Any:
    """JSON of a body, every number finite."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_not_a_number)
    except RequestError:
        raise
    except UnicodeDecodeError:
        raise RequestError("The body is not UTF-8.", code=BAD_REQUEST) from None
    except RecursionError:
        raise RequestError("The body's JSON is nested too deeply.", code=BAD_REQUEST) from None
    except ValueError as error:  # malformed JSON, and integers of thousands of digits
        raise RequestError(f"The body is not valid JSON ({excerpt(str(error), 80)}).", code=BAD_REQUEST) from None


def _not_a_number(name: str) -> NoReturn:
    raise RequestError(f"{name} is no JSON number; every value must be finite.")


def _form(content: Any) -> tuple[str, Any]:
    if not isinstance(content, dict):
        raise RequestError(f"The body must be a JSON object with exactly one of {', '.join(FORMS)}.", code=BAD_REQUEST)
    given = [f for f in FORMS if f in content]
    other = [k for k in content if k not in FORMS and k != "params"]
    if len(given) != 1 or other:
        raise RequestError(
            f"The body must hold exactly one of {', '.join(FORMS)}; it holds {excerpt(list(content))}.",
            code=BAD_REQUEST,
        )
    if content.get("params"):
        raise RequestError("This model takes no params; leave them out.")
    return given[0], content[given[0]]


def array(value: Any, shape: Shape) -> np.ndarray:
    """A nested list of numbers to float32, with shape, dtype, finiteness and range checked."""
    wanted = f"a nested list of numbers in [0, 1] of shape {shape}"
    if not isinstance(value, list):
        raise RequestError(f"The input must be {wanted}; files go into dataframe_records.")
    count(len(value), shape)
    # Checked before NumPy sees it: one long string among numbers would make it allocate that length for each of them.
    for i, image in enumerate(value):
        for plane in _lists(image, shape.channels, i, wanted):
            for row in _lists(plane, shape.side, i, wanted):
                if not set(map(type, _lists(row, shape.side, i, wanted))) <= {int, float}:
                    raise RequestError(f"Image {i} holds values that are not numbers; the input must be {wanted}.")
    return bounded(value, shape)


def bounded(value: list[Any], shape: Shape) -> np.ndarray:
    """Lists of numbers as float32, each finite and in [0, 1]."""
    wanted = f"a nested list of numbers in [0, 1] of shape {shape}"
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except OverflowError:
        raise RequestError(f"The input holds numbers that are too large; it must be {wanted}.") from None
    if not np.isfinite(numbers).all():
        raise RequestError(f"The input holds values that are not finite; it must be {wanted}.")
    if numbers.min() < 0 or numbers.max() > 1:
        raise RequestError(
            f"The input ranges from {numbers.min():.4g} to {numbers.max():.4g}; it must be {wanted}. "
            "Divide bytes by 255, or send files in dataframe_records."
        )
    return numbers.astype(np.float32)


def _lists(value: Any, length: int, image: int, wanted: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise RequestError(f"Image {image} has another shape; the input must be {wanted}.")
    return value


def count(n: int, shape: Shape) -> None:
    """Refuse no image, and more than are answered at once."""
    if n == 0:
        raise RequestError("The request holds no image.")
    if n > shape.max_images:
        raise RequestError(f"The request holds {n} images; at most {shape.max_images} are answered at once.")


def _records(value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(r, dict) and list(r) == [COLUMN] for r in value):
        raise RequestError(f'dataframe_records must be a list of {{"{COLUMN}": "<base64 of a PNG or JPEG file>"}}.')
    return [row[COLUMN] for row in value]


def _split(value: Any) -> list[Any]:
    form = f'dataframe_split must be {{"columns": ["{COLUMN}"], "data": [["<base64 of a PNG or JPEG file>"], …]}}.'
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        raise RequestError(form)
    rows = value["data"]
    one_each = isinstance(rows, list) and all(isinstance(r, list) and len(r) == 1 for r in rows)
    if value["columns"] != [COLUMN] or not one_each:
        raise RequestError(form)
    return [row[0] for row in rows]


def _file(value: Any, row: int) -> bytes:
    if not isinstance(value, str):
        raise RequestError(f"Row {row}: {COLUMN} must be a base64 string.")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"Row {row}: {COLUMN} is not valid base64.") from None
