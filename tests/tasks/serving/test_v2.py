"""The Open Inference Protocol: the same answers as MLflow's, as tensors; refusals in its own form, never a crash."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_tools import CLASSES, SIDE, make_client, picture, records, tensors

URL = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with make_client(tmp_path_factory.mktemp("v2")) as client:
        yield client


def numbers(x: np.ndarray, data=None, **more) -> dict:
    own = {"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist() if data is None else data}
    return {"inputs": [own | more]}


def scores_of(body: dict) -> np.ndarray:
    [own] = [o for o in body["outputs"] if o["name"] == "scores"]
    return np.array(own["data"]).reshape(own["shape"])


def test_the_model_says_what_it_is(client):
    assert client.get("/v2").json()["name"] == "gatehouse"
    assert client.get("/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/7/ready"):
        assert client.get(path).json()["ready"]
    model = client.get("/v2/models/tiny").json()
    assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, SIDE, SIDE]}]
    assert model["outputs"][1] == {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
    assert model["parameters"]["classes"] == list(CLASSES)


@pytest.mark.parametrize("flat", [True, False])
def test_numbers_are_answered_as_mlflow_s_protocol_answers_them(client, flat):
    x = tensors(3)
    theirs = client.post("/invocations", json={"inputs": x.tolist()}).json()["predictions"]
    asked = numbers(x, x.ravel().tolist() if flat else None) | {"id": "case 7"}
    response = client.post("/v2/models/tiny/versions/7/infer", json=asked)
    body = response.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("tiny", "7", "case 7")
    assert response.headers["x-model-sha256"] == "ab" * 32
    assert body["outputs"][0] == {
        "name": "label", "datatype": "BYTES", "shape": [3], "data": [p["label"] for p in theirs]
    }  # fmt: skip
    np.testing.assert_allclose(scores_of(body), [[p["scores"][c] for c in CLASSES] for p in theirs])


def test_files_are_answered_too_and_outputs_may_be_chosen(client, tmp_path):
    data = picture("RGB")
    theirs = client.post("/invocations", json=records(data)).json()["predictions"][0]
    files = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
    body = client.post(URL, json={"inputs": [files], "outputs": [{"name": "scores"}]}).json()
    assert [o["name"] for o in body["outputs"]] == ["scores"]
    assert scores_of(body)[0].tolist() == [theirs["scores"][c] for c in CLASSES]
    with make_client(tmp_path, "labels") as hidden:
        body = hidden.post(URL, json={"inputs": [files]}).json()
        assert [o["name"] for o in body["outputs"]] == ["label", "refused"]
        refused = hidden.post(URL, json={"inputs": [files], "outputs": [{"name": "scores"}]}).json()
        assert "one of label, refused." in refused["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "one tensor"),
        ({"inputs": [{"name": "images"}]}, "name, shape, datatype and data"),
        (numbers(tensors(1), datatype="INT8"), "is not known"),
        (numbers(tensors(1), name="x"), "is not known"),
        (numbers(tensors(1), shape=[1, 3, SIDE, SIDE]), "not served"),
        (numbers(tensors(1), shape=[]), "not served"),
        (numbers(tensors(1), shape=[True, 1, SIDE, SIDE]), "not served"),
        (numbers(tensors(2), shape=[1, 1, SIDE, SIDE]), "the shape says 1"),
        (numbers(tensors(1), [0.5] * 7), "data holds 7 numbers"),
        (numbers(tensors(1), ["x"] + [0.5] * (SIDE**2 - 1)), "not numbers"),
        (numbers(tensors(1), [2.0] + [0.5] * (SIDE**2 - 1)), "ranges from"),
        (numbers(tensors(5), tensors(5).ravel().tolist()), "at most 4"),
        (numbers(tensors(1), []), "no image"),
        (numbers(tensors(1)) | {"id": 3}, "id must be"),
        (numbers(tensors(1)) | {"outputs": [{"name": "weights"}]}, "one of label, scores"),
        ({"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["AA=="]}]}, "says otherwise"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": "AA=="}]}, "must be a list"),
    ],
)
def test_what_is_wrong_is_said_in_the_protocol_s_form(client, body, says):
    response = client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert says in response.json()["error"]


def test_unknown_models_and_paths_are_refused_in_its_form(client):
    for path in ("/v2/models/other", "/v2/nothing"):
        response = client.get(path)
        assert (response.status_code, response.json().keys()) == (404, {"error"})
    assert client.post("/v2/models/other/infer", json={}).status_code == 404


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(inner=JSONS, key=st.sampled_from(["inputs", "id", "outputs", "name", "shape", "datatype", "data"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_is_json_makes_it_fail(client, inner, key):
    body = numbers(tensors(1))
    (body if key in ("inputs", "id", "outputs") else body["inputs"][0])[key] = inner
    response = client.post(URL, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)
    assert response.json().keys() == {"error"} or response.json()["outputs"]
