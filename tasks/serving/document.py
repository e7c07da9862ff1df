"""The OpenAPI document of the service: every endpoint, what it takes, and each answer that it may give."""

from __future__ import annotations

from typing import Any

from tasks.serving.champion import Champion
from tasks.serving.protocol import Shape
from tasks.serving.v2 import FILES, LONGEST_ID, NUMBERS, TENSOR, outputs_of

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
KEYS: list[Schema] = [{"bearer": []}, {"header": []}, {}]  # the last: where keys are not required
REFUSALS = {
    400: "the request is not of the protocol's form, or a value in it is none",
    401: "a key is needed, or this one is wrong",
    408: "the body did not arrive in time",
    413: "the body is too long",
    415: "another content type than JSON",
    429: "the budget of images is used up",
    503: "no model is in service, or the service is busy",
}
RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}


def openapi(champion: Champion, shape: Shape) -> Schema:
    """The document for this champion, OpenAPI 3.1."""
    plain, tensors = _mlflow_error(), _record({"error": TEXT})
    info = {"title": "Gatehouse", "version": champion.version}
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    health = _get("Health: a proven champion is in service", {}, plain, refusals=(503,), keys=False)
    paths = {
        "/ping": health,
        "/health": health,
        "/version": _get("Which model answers, and what it reveals", {"type": "object"}, plain),
        "/metrics": _get("Counts for Prometheus", TEXT, plain, refusals=(401,), media="text/plain"),
        "/openapi.json": _get("This document", {"type": "object"}, plain),
        "/invocations": _post(_body(shape), _predictions(champion), plain),
        "/v2": _get("The server", _server(), tensors, refusals=(401,)),
        "/v2/health/live": _get("The process answers", _record({"live": {"const": True}}), tensors, (), keys=False),
        "/v2/health/ready": _get(
            "A proven champion is in service", _record({"ready": {"const": True}}), tensors, (503,), keys=False
        ),
    }
    ready = _record({"name": {"const": champion.name}, "ready": {"const": True}})
    root = f"/v2/models/{champion.name}"
    version = {"name": "version", "in": "path", "required": True, "schema": {**TEXT, "examples": [champion.version]}}
    for path, gone, given in ((root, (), []), (f"{root}/versions/{{version}}", (404,), [version])):
        own: dict[str, Schema] = {
            path: _get("What the model takes and answers", _metadata(), tensors, (401, *gone, 503)),
            f"{path}/ready": _get("The model answers", ready, tensors, (401, *gone, 503)),
            f"{path}/infer": _post(_v2_body(shape), _v2_answer(champion), tensors, gone),
        }
        paths |= {name: {**item, "parameters": given} if given else item for name, item in own.items()}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"securitySchemes": schemes}}


def _get(
    summary: str,
    answer: Schema,
    error: Schema,
    refusals: tuple[int, ...] = (401, 503),
    *,
    keys: bool = True,
    media: str = "application/json",
) -> Schema:
    content = {"description": summary, "content": {media: {"schema": answer}}} if answer else {"description": summary}
    responses = {"200": content} | _refused(error, refusals)
    return {"get": {"summary": summary, "responses": responses} | ({"security": KEYS} if keys else {})}


def _post(body: Schema, answer: Schema, error: Schema, more: tuple[int, ...] = ()) -> Schema:
    said = {
        "X-Model-Version": {"schema": TEXT},
        "X-Model-SHA256": {"schema": {**TEXT, "pattern": "^[0-9a-f]{64}$"}},
    }
    good = {"description": "Answers, image by image", "headers": said, "content": _json(answer)}
    return {
        "post": {
            "summary": "Classify images",
            "requestBody": {"required": True, "content": _json(body)},
            "responses": {"200": good} | _refused(error, (*REFUSALS, *more)),
            "security": KEYS,
        }
    }


def _refused(error: Schema, codes: tuple[int, ...]) -> Schema:
    return {
        str(code): {"description": REFUSALS.get(code, "this is not in service"), "content": _json(error)}
        | ({"headers": RETRY} if code in (429, 503) else {})
        for code in codes
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _record(properties: Schema, required: tuple[str, ...] | None = None) -> Schema:
    """An object with these properties and no others."""
    names = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _list(items: Schema, least: int | None = None, most: int | None = None) -> Schema:
    ends = {k: v for k, v in (("minItems", least), ("maxItems", most)) if v is not None}
    return {"type": "array", "items": items, **ends}


def _mlflow_error() -> Schema:
    return _record({"error_code": TEXT, "message": TEXT})


def _file() -> Schema:
    return {**TEXT, "contentEncoding": "base64", "description": "a PNG or JPEG file"}


def _body(shape: Shape) -> Schema:
    """MLflow's four forms, exactly one of them in a request."""
    numbers: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    for size in (shape.side, shape.side, shape.channels):
        numbers = _list(numbers, size, size)
    images = _list(numbers, 1, shape.max_images)
    rows = _list(_list(_file(), 1, 1), 1, shape.max_images)
    table = {"columns": {"const": ["image"]}, "data": rows, "index": {"type": "array"}}
    forms = {
        "inputs": images,
        "instances": images,
        "dataframe_records": _list(_record({"image": _file()}), 1, shape.max_images),
        "dataframe_split": _record(table, ("columns", "data")),
    }
    return {"oneOf": [_record({name: schema}) for name, schema in forms.items()]}


def _predictions(champion: Champion) -> Schema:
    label = {"enum": list(champion.spec.classes)}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    scores = _record(dict.fromkeys(champion.spec.classes, share))
    answered = _record({"label": label} if champion.output == "labels" else {"label": label, "scores": scores})
    refused = _record({"label": {"type": "null"}, "refused": {"const": True}})
    return _record({"predictions": _list({"oneOf": [answered, refused]}, 1)})


def _v2_body(shape: Shape) -> Schema:
    """One tensor of numbers or of files."""
    count: Schema = {"type": "integer", "minimum": 1, "maximum": shape.max_images}
    sizes = [count, *({"const": n} for n in (shape.channels, shape.side, shape.side))]
    numbers = {"type": "array", "minItems": 1, "description": "numbers in [0, 1], flat or nested as shape says"}
    tensor = {"name": {"const": TENSOR}, "datatype": {"enum": list(NUMBERS)}, "shape": _tuple(sizes), "data": numbers}
    files = {
        "name": {"const": FILES},
        "datatype": {"const": "BYTES"},
        "shape": _tuple([count]),
        "data": _list(_file(), 1, shape.max_images),
    }
    named = {"type": "object", "properties": {"name": {"enum": ["label", "refused", "scores"]}}, "required": ["name"]}
    return _record(
        {
            "id": {**TEXT, "maxLength": LONGEST_ID},
            "parameters": {"type": "object"},
            "inputs": _list({"oneOf": [_record(tensor), _record(files)]}, 1, 1),
            "outputs": _list(named),
        },
        ("inputs",),
    )


def _tuple(items: list[Schema]) -> Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _v2_answer(champion: Champion) -> Schema:
    whole = {"type": "integer", "minimum": 1}
    tensor = _record(
        {
            "name": {"enum": [o["name"] for o in outputs_of(champion)]},
            "datatype": {"enum": ["BYTES", "BOOL", "FP32"]},
            "shape": _list(whole, 1, 2),
            "data": _list({"type": ["string", "boolean", "number"]}, 1),
        }
    )
    named = {"model_name": {"const": champion.name}, "model_version": TEXT}
    return _record({**named, "id": TEXT, "outputs": _list(tensor, 1)}, (*named, "outputs"))


def _metadata() -> Schema:
    tensor = _record({"name": TEXT, "datatype": TEXT, "shape": _list({"type": "integer"}, 1)})
    told = _record({"classes": _list(TEXT, 2), "sha256": TEXT})
    tensors = _list(tensor, 1)
    return _record(
        {
            "name": TEXT,
            "versions": _list(TEXT, 1),
            "platform": TEXT,
            "inputs": tensors,
            "outputs": tensors,
            "parameters": told,
        }
    )


def _server() -> Schema:
    return _record({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)})
