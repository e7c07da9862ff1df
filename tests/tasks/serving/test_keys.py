"""API keys: only hashes are kept, a wrong one is a 401 in the protocol's own form, changes count at once."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from serving_tools import make_client, tensors

from tasks.errors import GatehouseError
from tasks.serving.errors import RequestError
from tasks.serving.keys import KeyRing, add_key, read_keys, remove_keys
from tasks.serving.log import read_history

BODY = {"inputs": tensors(1).tolist()}
TENSOR = {"inputs": [{"name": "images", "shape": [1, 1, 16, 16], "datatype": "FP32", "data": tensors(1).tolist()}]}


def test_the_file_holds_hashes_alone_and_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "keys.json"
    first, second = add_key("radiology", path), add_key("radiology", path)
    assert first != second
    assert len(first) > 43  # 256 bits in base64, and the prefix
    assert first not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [k.account for k in read_keys(path)] == ["radiology"] * 2
    assert remove_keys("radiology", path) == 2
    assert read_keys(path) == ()


@pytest.mark.parametrize("name", ["", "a b", "10.0.0.1", "::1", "x" * 65, "../x", "é"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GatehouseError, match="is no account name"):
        add_key(name, tmp_path / "keys.json")
    assert not (tmp_path / "keys.json").exists()


def test_who_has_no_key_cannot_lose_one(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match="has no API key"):
        remove_keys("nobody", tmp_path / "keys.json")


@pytest.mark.parametrize("content", ["{", "[]", '{"keys": [{"account": 1}]}', '{"keys": [], "more": 1}'])
def test_a_broken_file_opens_no_door(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    key, ring = add_key("a", path), KeyRing(path, required=True)
    assert ring.account({"x-api-key": key}, "1.2.3.4") == "a"
    path.write_text(content)
    with pytest.raises(GatehouseError, match=r"keys\.json"):
        read_keys(path)
    with pytest.raises(RequestError):
        ring.account({"x-api-key": key}, "1.2.3.4")


def test_accounts_come_from_either_header_and_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(path, required=False)
    assert ring.account({}, "1.2.3.4") == "1.2.3.4"
    assert ring.account({"authorization": "Basic eDp5"}, "1.2.3.4") == "1.2.3.4"  # a proxy's own
    key = add_key("ward", path)
    other = add_key("lab", path)
    assert ring.account({"authorization": f"Bearer {key}"}, "1.2.3.4") == "ward"
    assert ring.account({"authorization": f"bearer  {other} "}, "1.2.3.4") == "lab"
    assert ring.account({"x-api-key": other}, "1.2.3.4") == "lab"
    remove_keys("lab", path)
    for wrong in ({"x-api-key": other}, {"x-api-key": ""}, {"authorization": "Bearer"}, {"x-api-key": key + "x"}):
        with pytest.raises(RequestError) as refusal:
            ring.account(wrong, "1.2.3.4")
        assert refusal.value.status == 401


def test_a_wrong_key_is_refused_in_the_form_that_was_asked_in(tmp_path: Path) -> None:
    key = add_key("ward", tmp_path / "api_keys.json")
    with make_client(tmp_path, required=True) as client:
        for headers in ({}, {"X-API-Key": "gh_wrong"}, {"Authorization": "Bearer gh_wrong"}):
            mlflow = client.post("/invocations", json=BODY, headers=headers)
            v2 = client.post("/v2/models/tiny/infer", json=TENSOR, headers=headers)
            assert (mlflow.status_code, v2.status_code) == (401, 401)
            assert mlflow.headers["www-authenticate"] == "Bearer"
            assert mlflow.json()["error_code"] == "UNAUTHENTICATED"
            assert v2.json() == {"error": mlflow.json()["message"]}
            for path in ("/version", "/metrics", "/openapi.json", "/v2", "/v2/models/tiny"):
                assert client.get(path, headers=headers).status_code == 401
        for path in ("/ping", "/health", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        assert client.post("/invocations", json=BODY, headers={"X-API-Key": key}).status_code == 200
        assert client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        client.app.state.deployment.log.close()
    requests = read_history(tmp_path / "requests.db", since=0).requests
    assert requests["account"].tolist() == ["testclient"] * 6 + ["ward"]
    assert requests["status"].tolist() == [401] * 6 + [200]
    assert key not in json.dumps(requests.to_dict("records"))
