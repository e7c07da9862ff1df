"""The service against what its own OpenAPI document allows and forbids, and against thousands of damaged images.

Nothing may end in a 5xx, and every answer must have the form that the document gives it.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import jsonschema
import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving_tools import SIDE, make_client, picture, tensors

from tasks.serving.keys import add_key

CHECKS = (
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance, unsupported_method,
)  # fmt: skip
FUZZ = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
MALFORMED = 2_100  # images, one a request


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    torch.set_num_threads(1)
    with make_client(tmp_path_factory.mktemp("fuzzing")) as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def api(client):
    return schemathesis.openapi.from_asgi("/openapi.json", client.app)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_document_holds(api, mode):
    """Requests that the document allows, and ones that it forbids."""
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 14  # every endpoint but the document itself
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @FUZZ
        def holds(case):
            case.call_and_validate(checks=CHECKS)

        try:
            holds()
        except Unsatisfiable:
            assert mode.is_negative  # a GET without parameters: nothing about it can be wrong


def test_the_document_names_every_endpoint_and_is_valid(client, document):
    schemathesis.openapi.from_dict(document).validate()
    routes = {(r.path, m.lower()) for r in client.app.routes for m in r.methods}
    assert routes == {(path, m) for path, item in document["paths"].items() for m in item if m in ("get", "post")}


def test_answers_and_refusals_of_each_kind_have_the_document_s_form(client, document):
    """So that the checks above cannot pass because nothing was ever answered."""
    good = client.post("/invocations", json={"inputs": tensors(2).tolist()})
    assert good.status_code == 200
    tensor = {"name": "images", "shape": [1, 1, SIDE, SIDE], "datatype": "FP32", "data": tensors(1).tolist()}
    for path, body, status in (
        ("/invocations", {"inputs": tensors(2).tolist()}, 200),
        ("/invocations", {"inputs": []}, 400),
        ("/v2/models/tiny/infer", {"inputs": [tensor], "id": "x"}, 200),
        ("/v2/models/tiny/infer", {"inputs": []}, 400),
    ):
        response = client.post(path, json=body)
        assert response.status_code == status
        jsonschema.validate(response.json(), answer_schema(document, path, status))
    wrong = answer_schema(document, "/invocations", 200)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"predictions": [{"label": "tumour"}]}, wrong)


def answer_schema(document: dict, path: str, status: int) -> dict:
    return document["paths"][path]["post"]["responses"][str(status)]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("status", [401, 429, 503])
def test_refusals_of_the_service_itself_have_the_document_s_form(tmp_path, document, status):
    from tasks.risk import Budget

    with make_client(tmp_path, required=True, budget=Budget(images_per_day=1)) as client:
        headers = {} if status == 401 else {"X-API-Key": add_key("a", tmp_path / "api_keys.json")}
        if status == 429:
            client.post("/invocations", json={"inputs": tensors(1).tolist()}, headers=headers)
        if status == 503:
            client.app.state.deployment.replace(None)
        for path in ("/invocations", "/v2/models/tiny/infer"):
            response = client.post(path, json={}, headers=headers)
            assert response.status_code == status
            jsonschema.validate(response.json(), answer_schema(document, path, status))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    """Files that exist in the wild, of every colour type, and with everything that they may carry."""
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20), dtype=np.uint8))
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65535, (24, 20)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "patient" * 50
    return [
        *(picture(mode, (20, 24)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(picture(mode, (20, 24), "JPEG") for mode in ("L", "RGB", "CMYK")),
        saved(deep, "PNG"),
        saved(gray, "PNG", optimize=True),
        saved(gray.convert("RGB"), "PNG", save_all=True, append_images=[gray.convert("RGB")] * 2),
        saved(gray.convert("RGB"), "JPEG", progressive=True, exif=exif, quality=30),
        saved(gray.convert("RGB"), "JPEG", icc_profile=b"\0" * 3000, comment=b"x" * 3000),
        saved(gray, "PNG", exif=exif, transparency=7),
        saved(gray, "GIF"),
        saved(gray.convert("RGB"), "WEBP"),
        saved(gray, "TIFF"),
        saved(gray, "BMP"),
    ]


def crafted() -> list[bytes]:
    """What nobody sends by accident: bombs, sizes that lie, chunks that never end."""
    flat = zlib.compress(b"\0" * 21 * 24)
    sizes = (0, 1, 2**16, 2**31 - 1, 2**32 - 1)
    bomb = zlib.compress(b"\0" * 20_000_000, 9)
    text = chunk(b"zTXt", b"k\0\0" + bomb)
    profile = chunk(b"iCCP", b"k\0\0" + bomb)
    jpeg = picture("L", (20, 24), "JPEG")
    start = jpeg.index(b"\xff\xc0")
    return [
        *(png(w, h, 8, 0, flat) for w in sizes for h in sizes),
        *(png(20, 24, depth, colour, flat) for depth in (0, 1, 2, 3, 4, 8, 16, 255) for colour in range(8)),
        png(20, 24, 8, 0, bomb),
        png(20, 24, 8, 0, flat, text, text, text),
        png(20, 24, 8, 0, flat, profile),
        png(20, 24, 8, 3, flat, chunk(b"PLTE", b"\1\2")),
        png(20, 24, 8, 0, b""),
        png(20, 24, 8, 0, flat[:5]),
        png(20, 24, 8, 0, flat, struct.pack(">I", 2**31) + b"tEXt"),
        png(20, 24, 8, 0, flat, chunk(b"acTL", struct.pack(">II", 2**31, 0))),
        *(jpeg[: start + 5] + struct.pack(">HH", h, w) + jpeg[start + 9 :] for w in (0, 65535) for h in (0, 65535)),
        jpeg[:start] + b"\xff\xda" + jpeg[start:],
        jpeg[:2] * 4000,
        b"\xff\xd8" + b"\xff\xe1\xff\xff" * 500,
    ]


def damaged(file: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip, overwrite, repeat or drop bytes; most of it near the header, where it hurts."""
    data = bytearray(file)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at = int(rng.integers(0, min(len(data), 80) if rng.random() < 0.6 else len(data)))
        match rng.integers(0, 6):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 2:
                data[at : at + 4] = rng.bytes(4)
            case 3:
                data[at : at + 4] = struct.pack(">I", int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])))
            case 4:
                data[at:at] = data[at : at + int(rng.integers(1, 60))]
            case _:
                del data[at : at + int(rng.integers(1, 20))]
    return bytes(data)


def test_thousands_of_malformed_images_are_answered_in_form(client, document):
    rng, originals = np.random.default_rng(7), seeds()
    files = [*originals, *crafted()]
    files += [damaged(originals[i % len(originals)], rng) for i in range(MALFORMED - len(files))]
    validators = {
        status: jsonschema.Draft202012Validator(answer_schema(document, "/invocations", status))
        for status in (200, 400, 413)
    }
    counts = dict.fromkeys(validators, 0)
    for file in files:  # one by one: in a batch the first bad one would hide the others
        if len(file) > 140_000:
            file = file[:140_000]
        body = b'{"dataframe_records": [{"image": "%s"}]}' % base64.b64encode(file)
        response = client.post("/invocations", content=body, headers={"content-type": "application/json"})
        assert response.status_code in validators, (response.status_code, response.text, file[:80])
        validators[response.status_code].validate(response.json())
        counts[response.status_code] += 1
    assert sum(counts.values()) == MALFORMED
    assert counts[400] > MALFORMED / 2  # they are malformed, and
    assert counts[200] > MALFORMED / 50  # some are whole after all
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize("path", ["/invocations", "/v2/models/tiny/infer"])
def test_malformed_arrays_are_answered_in_form(client, document, path):
    rng = np.random.default_rng(3)
    bad = (float("nan"), float("inf"), -1e300, 1e300, 10**40, True, None, "0.5", [], {}, [0.5], "\ud800", -0.0, 1e-320)
    validators = {s: jsonschema.Draft202012Validator(answer_schema(document, path, s)) for s in (200, 400)}
    for _ in range(150):
        x = tensors(int(rng.integers(1, 3)), seed=int(rng.integers(0, 99))).tolist()
        for _ in range(rng.integers(0, 3)):
            target = x
            for _ in range(rng.integers(0, 4)):
                if not (isinstance(target, list) and target and isinstance(target[-1], list)):
                    break
                target = target[int(rng.integers(0, len(target)))]
                if not isinstance(target, list):
                    break
            if isinstance(target, list) and target:
                value = bad[int(rng.integers(0, len(bad)))]
                at = int(rng.integers(0, len(target)))
                target[at : at + 1] = [[value], [], [target[at], value]][int(rng.integers(0, 3))]
        shape = [len(x), 1, SIDE, SIDE]
        if rng.random() < 0.3:
            shape[int(rng.integers(0, 4))] = int(rng.choice([-1, 0, 2, 2**40]))
        kind = str(rng.choice(["FP32", "FP64", "INT64", "BYTES", "BOOL"]))
        own = {"name": "images", "shape": shape, "datatype": kind, "data": x}
        body = {"inputs": x} if path == "/invocations" else {"inputs": [own]}
        response = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        assert response.status_code in validators, response.text
        validators[response.status_code].validate(response.json())
