"""The service over HTTP, in process: the protocol, disclosure, refusals in its form, what is logged."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_tools import CLASSES, SIDE, make_champion, make_client, picture, prepare, records, tensors

from tasks.serving.log import read_history

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    torch.set_num_threads(1)
    with make_client(tmp_path_factory.mktemp("service")) as client:
        yield client


def test_it_is_healthy_and_says_which_model_it_is(client):
    assert client.get("/ping").status_code == client.get("/health").status_code == 200
    version = client.get("/version").json()
    assert (version["model"], version["model_version"], version["model_sha256"]) == ("tiny", "7", "ab" * 32)
    assert version["input_shape"] == [-1, 1, SIDE, SIDE]


@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_arrays_get_the_model_s_own_scores(client, form):
    x = tensors(3)
    response = client.post("/invocations", json={form: x.tolist()})
    wanted = make_champion().model(torch.from_numpy(x)).softmax(1).detach().numpy()
    got = [[p["scores"][c] for c in CLASSES] for p in response.json()["predictions"]]
    assert response.headers["x-model-version"] == "7"
    assert [p["label"] for p in response.json()["predictions"]] == [CLASSES[i] for i in wanted.argmax(1)]
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB")]
)
def test_files_are_prepared_as_the_data_are(client, kind, mode):
    data = picture(mode, kind=kind)
    x = torch.from_numpy(prepare(data)[None] / np.float32(255))
    wanted = make_champion().model(x).softmax(1).detach().numpy()[0]
    rows = records(data)
    split = {"dataframe_split": {"columns": ["image"], "data": [[rows["dataframe_records"][0]["image"]]], "index": [0]}}
    for body in (rows, split):
        [answer] = client.post("/invocations", json=body).json()["predictions"]
        np.testing.assert_allclose([answer["scores"][c] for c in CLASSES], wanted, atol=2e-6)


def test_the_policy_decides_what_is_revealed(tmp_path):
    x = tensors(1).tolist()
    with make_client(tmp_path / "r", "rounded") as c:
        scores = c.post("/invocations", json={"inputs": x}).json()["predictions"][0]["scores"]
        assert all(s == round(s, 2) for s in scores.values())
        assert sum(scores.values()) == pytest.approx(1, abs=0.02)
    with make_client(tmp_path / "l", "labels") as c:
        [answer] = c.post("/invocations", json={"inputs": x}).json()["predictions"]
        assert answer.keys() == {"label"}


def nested(depth: int) -> bytes:
    return b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}"


def inputs(value) -> bytes:
    return json.dumps({"inputs": value}).encode()


def changed(value) -> bytes:
    x = tensors(1).tolist()
    x[0][0][3][4] = value
    return inputs(x)


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"inputs": "\xff\xfe"}',
    "a list": b"[1]",
    "no form": b"{}",
    "two forms": b'{"inputs": [], "instances": []}',
    "unknown key": b'{"inputs": [], "model": 1}',
    "params": b'{"inputs": [], "params": {"temperature": 2}}',
    "no image": b'{"inputs": []}',
    "no row": b'{"dataframe_records": []}',
    "named tensor": b'{"inputs": {"image": []}}',
    "deep": nested(100_000 // 2),
    "NaN": b'{"inputs": [[[[NaN]]]]}',
    "huge exponent": changed(0.5).replace(b"0.5", b"1e999"),
    "huge integer": changed(10**400),
    "digits": b'{"inputs": ' + b"1" * 5000 + b"}",
    "string": changed("0.5"),
    "null": changed(None),
    "boolean": changed(True),
    "too bright": changed(255),
    "negative": changed(-0.1),
    "too deep": changed([0.5]),
    "ragged": inputs([tensors(1).tolist()[0], [[0.5]]]),
    "wrong side": inputs(np.zeros((1, 1, 8, 8)).tolist()),
    "three channels": inputs(np.zeros((1, 3, SIDE, SIDE)).tolist()),
    "no batch axis": inputs(np.zeros((1, SIDE, SIDE)).tolist()),
    "too many": inputs([0] * 5),
    "surrogate": b'{"dataframe_records": [{"image": "\\ud800"}], "\\ud800": 1}',
    "surrogate as image": b'{"dataframe_records": [{"image": "\\ud800"}]}',
    "not base64": b'{"dataframe_records": [{"image": "!"}]}',
    "image is a number": b'{"dataframe_records": [{"image": 1}]}',
    "other column": b'{"dataframe_records": [{"picture": "AAAA"}]}',
    "records no list": b'{"dataframe_records": {"image": "AAAA"}}',
    "split no object": b'{"dataframe_split": [["AAAA"]]}',
    "split without columns": b'{"dataframe_split": {"data": [["AAAA"]]}}',
    "split with two columns": b'{"dataframe_split": {"columns": ["image", "b"], "data": [["AAAA", 1]]}}',
    "split rows": b'{"dataframe_split": {"columns": ["image"], "data": ["AAAA"]}}',
    "no picture": b'{"dataframe_records": [{"image": "AAAA"}]}',
    "empty file": b'{"dataframe_records": [{"image": ""}]}',
    "truncated": json.dumps(records(picture()[:-500])).encode(),
    "GIF": json.dumps(records(picture(kind="GIF"))).encode(),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_in_the_protocol_s_form(client, name):
    response = client.post("/invocations", content=BAD_BODIES[name], headers=JSON)
    assert response.status_code == 400, response.text
    error = response.json()
    assert error["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
    assert 10 < len(error["message"]) < 400


@pytest.mark.parametrize(
    "kind", ["", "text/csv", "image/png", "application/json; charset=latin-1", "application/x; \xe4"]
)
def test_other_content_types_are_unsupported(client, kind):
    response = client.post("/invocations", content=b"{}", headers={"content-type": kind.encode("latin-1")})
    assert response.status_code == 415
    assert (
        client.post(
            "/invocations", content=b"{}", headers={"content-type": "Application/JSON; charset=UTF-8"}
        ).status_code
        == 400
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(client, chunked):
    content = (b" " * 10_000 for _ in range(30)) if chunked else b" " * 200_001
    response = client.post("/invocations", content=content, headers=JSON)
    assert (response.status_code, response.json()["error_code"]) == (413, "BAD_REQUEST")
    assert client.post("/invocations", content=b" " * 200_000, headers=JSON).status_code == 400


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and holds, width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\0" * ((width + 7) // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_by_their_headers(client):
    for size in ((5000, 5000), (14_000, 14_000)):
        response = client.post("/invocations", json=records(bomb(*size)))
        assert response.status_code == 400
        assert "pixels" in response.json()["message"]


def test_many_large_images_are_refused_together(tmp_path):
    with make_client(tmp_path, max_images=8) as client:
        response = client.post("/invocations", json=records(*[bomb(4000, 4000)] * 5))
    assert response.status_code == 400
    assert "together" in response.json()["message"]


def test_sixteen_bit_images_are_scaled_not_clipped(client, tmp_path):
    ramp = (np.arange(SIDE * SIDE, dtype=np.uint32) * 255).astype(np.uint16).reshape(SIDE, SIDE)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "ramp8.png")
    files = [(tmp_path / name).read_bytes() for name in ("ramp.png", "ramp8.png")]
    first, second = client.post("/invocations", json=records(*files)).json()["predictions"]
    assert first == second


@pytest.mark.parametrize(("event", "status"), [("silence", 408), ("http.disconnect", 400)])
def test_a_body_that_does_not_come_is_given_up(tmp_path, event, status):
    sent = []

    async def receive():
        if event == "silence":
            await asyncio.sleep(60)
        return {"type": event}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    app = make_client(tmp_path, body_seconds=0.05).app
    asyncio.run(app({**scope, "query_string": b"", "http_version": "1.1", "client": ("10.0.0.9", 1)}, receive, send))
    assert sent[0]["status"] == status
    app.state.deployment.log.close()
    [row] = read_history(tmp_path / "requests.db", since=0).requests.to_dict("records")
    assert (row["account"], row["status"], row["error"]) == ("10.0.0.9", status, "BAD_REQUEST")


def test_unknown_paths_and_methods_are_refused_in_the_protocol_s_form(client):
    assert client.get("/nothing").json()["error_code"] == "ENDPOINT_NOT_FOUND"
    response = client.get("/invocations")
    assert (response.status_code, response.json()["error_code"]) == (405, "BAD_REQUEST")
    assert client.get("/docs").status_code == 404  # would load scripts from elsewhere
    assert client.get("/openapi.json").status_code == 200


forms = st.sampled_from(["inputs", "instances", "dataframe_split", "dataframe_records", "params"])
columns = st.sampled_from(["image", "data", "columns", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(columns, inner),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.dictionaries(forms, json_values, max_size=2).map(lambda d: json.dumps(d).encode()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies)
def test_no_body_breaks_it(client, body):
    assert 400 <= client.post("/invocations", content=body, headers=JSON).status_code < 500


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_image_breaks_it(client, data):
    mode = data.draw(st.sampled_from(["L", "RGB", "RGBA", "P", "1", "LA"]))
    kind = data.draw(st.sampled_from(["PNG", "JPEG"])) if mode in ("L", "RGB") else "PNG"
    file = bytearray(picture(mode, (24, 24), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(file)))
    assert client.post("/invocations", json=records(bytes(file[:cut]))).status_code in (200, 400)


def test_what_is_logged(tmp_path):
    x = tensors(2)
    with make_client(tmp_path) as client:
        client.post("/invocations", json={"inputs": x.tolist()})
        client.post("/invocations", json={"inputs": x[:1].tolist()})
        client.post("/invocations", content=b"{", headers=JSON)
        client.app.state.deployment.log.close()
    history = read_history(tmp_path / "requests.db", since=0)
    assert history.requests["status"].tolist() == [200, 200, 400]
    assert history.requests["error"].tolist() == ["", "", "BAD_REQUEST"]
    assert history.requests["account"].unique().tolist() == ["testclient"]
    assert (history.requests["latency_ms"] > 0).all()
    assert history.images["request"].tolist() == [1, 1, 2]
    assert history.images["sha256"][0] == history.images["sha256"][2] != history.images["sha256"][1]
    np.testing.assert_allclose(history.images["mean"][:2], x.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(history.images["sd"][:2], x.std((1, 2, 3)), atol=1e-6)
    assert set(history.images["label"]) <= set(CLASSES)
    assert history.dropped == 0


def test_a_fault_of_ours_tells_nothing_of_the_inside(tmp_path):
    with make_client(tmp_path) as client:
        client.app.state.deployment.log.put = None  # type: ignore[method-assign]
        client._transport.raise_server_exceptions = False
        response = client.post("/invocations", json={"inputs": tensors(1).tolist()})
    assert response.status_code == 500
    assert response.json() == {"error_code": "INTERNAL_ERROR", "message": "The service failed; its log says how."}
