"""The champion is replaced under way: no request is lost, each answer is whole, and without one the service says so."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from serving_tools import CLASSES, make_champion, make_client, picture, records, tensors

from tasks.serving.champion import answer
from tasks.serving.log import read_history

X = tensors(2)
BODY = {"inputs": X.tolist()}


def test_every_answer_under_swaps_is_one_model_s_own(tmp_path: Path) -> None:
    champions = [make_champion(version=v, seed=s) for v, s in (("7", 3), ("8", 4))]
    wanted = {c.version: [a.revealed for a in answer(c, X)] for c in champions}
    assert wanted["7"] != wanted["8"]
    done = threading.Event()
    with make_client(tmp_path) as client:
        deployment = client.app.state.deployment
        services = [dataclasses.replace(deployment.current(), champion=c) for c in champions]

        def swap() -> None:
            while not done.is_set():
                for service in services:
                    deployment.replace(service)
                    time.sleep(0.002)

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            with ThreadPoolExecutor(4) as pool:
                responses = list(pool.map(lambda _: client.post("/invocations", json=BODY), range(150)))
        finally:
            done.set()
            thread.join()
        deployment.log.close()
    assert {r.status_code for r in responses} == {200}
    seen = set()
    for response in responses:
        version = response.headers["x-model-version"]
        assert response.json()["predictions"] == wanted[version]
        seen.add(version)
    assert seen == {"7", "8"}
    assert len(read_history(tmp_path / "requests.db", since=0).requests) == 150


def test_a_request_that_began_ends_with_the_champion_it_had(tmp_path: Path) -> None:
    entered, go = threading.Event(), threading.Event()
    with make_client(tmp_path) as client:
        deployment = client.app.state.deployment
        first = deployment.current()

        def slow(content: bytes) -> np.ndarray:
            entered.set()
            assert go.wait(10)
            return first.prepare(content)

        deployment.replace(dataclasses.replace(first, prepare=slow))
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(client.post, "/invocations", json=records(picture()))
            assert entered.wait(10)
            deployment.replace(None)
            refused = client.post("/invocations", json=BODY)
            go.set()
            answered = under_way.result(10)
    assert refused.status_code == 503
    assert (answered.status_code, answered.headers["x-model-version"]) == (200, "7")
    assert answered.json()["predictions"][0]["label"] in CLASSES


def test_without_a_champion_each_protocol_says_so_and_the_service_stays_up(tmp_path: Path) -> None:
    with make_client(tmp_path) as client:
        deployment = client.app.state.deployment
        service = deployment.current()
        deployment.replace(None)
        for path in ("/ping", "/health", "/version", "/openapi.json"):
            response = client.get(path)
            assert (response.status_code, response.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
            assert response.json()["message"].startswith("No model is in service")
        for path in ("/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/ready", "/v2/models/tiny/versions/7"):
            response = client.get(path)
            assert (response.status_code, response.json().keys()) == (503, {"error"})
        assert client.post("/invocations", json=BODY).headers["retry-after"] == "60"
        assert client.post("/v2/models/tiny/infer", json={}).status_code == 503
        assert client.get("/v2/health/live").status_code == client.get("/metrics").status_code == 200
        assert "gatehouse_ready 0.0" in client.get("/metrics").text
        deployment.replace(dataclasses.replace(service, champion=make_champion(version="9")))
        assert client.get("/ping").status_code == 200
        assert client.get("/v2/models/tiny/versions/9/ready").json() == {"name": "tiny", "ready": True}
        gone = client.get("/v2/models/tiny/versions/7")
        assert (gone.status_code, gone.json()) == (404, {"error": "This version is not in service."})
        assert client.post("/v2/models/tiny/versions/7/infer", json={}).status_code == 404
        model = [line for line in client.get("/metrics").text.splitlines() if line.startswith("gatehouse_model{")]
        assert len(model) == 1
        assert 'version="9"' in model[0]
