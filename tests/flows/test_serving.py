"""The service as a real process, and the ways in which it refuses to start."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from proven_project import NAME, SIDE, images, inside, make_project

from flows import registry, serving
from flows.deployment import make_service
from tasks.errors import GatehouseError
from tasks.models.checkpoints import load_model
from tasks.models.inference import probabilities
from tasks.serving.log import read_history


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


def start(project) -> tuple[int, str]:
    """Exit code and output of the service's entry point, in this process."""
    before = signal.getsignal(signal.SIGTERM)
    out = io.StringIO()
    with inside(project.root), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        try:
            return serving.main(), out.getvalue()
        finally:
            signal.signal(signal.SIGTERM, before)


def png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def wait_until_healthy(process: subprocess.Popen, url: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read()
        try:
            if httpx.get(f"{url}/ping", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail("the service did not become healthy")


def test_a_real_client_is_answered_and_logged(project):
    root = project.root
    params = yaml.safe_load((root / "params.yaml").read_text())["serving"]
    url = f"http://127.0.0.1:{params['port']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.serving"]
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(process, url)
        assert httpx.get(f"{url}/version").json()["model_sha256"] == project.record.sha256

        sent = images(2, seed=5)
        body = {"dataframe_records": [{"image": png(i)} for i in sent]}
        response = httpx.post(f"{url}/invocations", json=body, timeout=30)
        wanted = probabilities(load_model(project.model)[0], sent).numpy()
        classes = project.record.spec.classes
        got = [[p["scores"][c] for c in classes] for p in response.json()["predictions"]]
        assert response.headers["x-model-version"] == "1"
        np.testing.assert_allclose(got, wanted, atol=0.00501)  # the signed policy rounds to two digits
        assert all(s == round(s, 2) for row in got for s in row)

        connection = http.client.HTTPConnection("127.0.0.1", params["port"], timeout=30)
        chunks = (b" " * 4096 for _ in range(params["max_request_bytes"] // 4096 + 1))
        connection.request("POST", "/invocations", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
        refused = connection.getresponse()
        assert (refused.status, json.load(refused)["error_code"]) == (413, "BAD_REQUEST")
        assert httpx.get(f"{url}/ping").status_code == 200

        again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)
        assert again.returncode == 1
        assert f"Cannot listen on 127.0.0.1:{params['port']}" in again.stdout
        assert len(again.stdout.splitlines()) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 0, output
    assert "evidence verified" in output
    history = read_history(root / params["log"], since=0)
    assert history.requests["status"].tolist() == [200, 413]
    assert history.requests["account"].tolist() == ["127.0.0.1"] * 2
    assert len(history.images) == 2


def test_an_alias_moved_by_hand_is_not_served(project, tmp_path):
    """Version 2 has other weights and the evidence of version 1."""
    other = tmp_path / "model"
    other.mkdir()
    for file in project.model.glob("model.*"):
        (other / file.name).write_bytes(file.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with inside(project.root):
        version = registry.register(NAME, other, project.evidence, sha256=project.record.sha256, tags={})
        registry.crown(NAME, version)
    try:
        code, output = start(project)
    finally:
        with inside(project.root):
            registry.crown(NAME, "1")
    assert code == 1
    assert f"stands on version {version}" in output
    assert "model.safetensors is not the file that was signed" in output
    assert len(output.splitlines()) == 1


def test_evidence_of_another_key_is_not_served(project):
    store = project.root / ".gatehouse/keys/trusted.json"
    kept = store.read_bytes()
    from cryptography.hazmat.primitives.asymmetric import ec

    from tasks.promotion.trust import only

    store.write_text(only(ec.generate_private_key(ec.SECP256R1()).public_key()).model_dump_json())
    try:
        code, output = start(project)
    finally:
        store.write_bytes(kept)
    assert code == 1
    assert "signed by another key" in output


def changed_params(root: Path, section: str, **values) -> bytes:
    path = root / "params.yaml"
    kept = path.read_bytes()
    content = yaml.safe_load(kept)
    content[section].update(values)
    path.write_text(yaml.safe_dump(content))
    return kept


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("promotion", {"model_name": "nobody"}, "has no champion"),
        ("serving", {"host": "no-such-host.invalid"}, "is no address"),
        ("serving", {"host": "192.0.2.1"}, "Cannot listen on 192.0.2.1"),
        ("serving", {"log": "params.yaml"}, "cannot be used"),
    ],
)
def test_what_the_operator_can_mend_is_one_sentence(project, section, values, sentence):
    kept = changed_params(project.root, section, **values)
    try:
        code, output = start(project)
    finally:
        (project.root / "params.yaml").write_bytes(kept)
    assert code == 1
    assert sentence in output
    assert len(output.splitlines()) == 1


def test_a_host_that_others_reach_needs_keys(project):
    kept = changed_params(project.root, "serving", host="0.0.0.0", log="params.yaml")  # the log stops it after that
    try:
        code, output = start(project)
        assert (code, len(output.splitlines())) == (1, 1)
        assert "nobody has an API key; make one with" in output
        with inside(project.root):
            assert serving.main(["key", "radiology"]) == 0
            code, output = start(project)
            assert serving.main(["key", "--remove", "radiology"]) == 0
    finally:
        (project.root / "params.yaml").write_bytes(kept)
    assert code == 1
    assert "API keys are required, but nothing is encrypted" in output.splitlines()[0]
    assert "cannot be used" in output.splitlines()[1]


def test_a_taken_port_is_told_before_anything_is_loaded(project):
    port = yaml.safe_load((project.root / "params.yaml").read_text())["serving"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        started = time.monotonic()
        code, output = start(project)
        assert time.monotonic() - started < 2
    assert (code, len(output.splitlines())) == (1, 1)
    assert "set serving.port to a free port" in output


def test_images_are_prepared_as_the_signed_parameters_say(project):
    """A remedy that is changed in params.yaml after promotion does not change what the champion is shown."""
    kept = changed_params(project.root, "data", remedy="mask_corners")
    try:
        with inside(project.root):
            params = serving.load_params()
            from flows.champion import load_champion

            champion = load_champion(params.promotion)
            log = serving.open_log(params)
            service = make_service(params, champion, log)
            log.close()
        image = images(1, seed=2)
        prepared = service.prepare(base64.b64decode(png(image[0])))
        assert prepared.shape == (1, SIDE, SIDE)
        np.testing.assert_array_equal(prepared, image[0])
    finally:
        (project.root / "params.yaml").write_bytes(kept)


def test_the_key_of_pseudonyms_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys" / "accounts.key"
    key = serving.secret(path)
    assert serving.secret(path) == key
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(GatehouseError, match="32 bytes"):
        serving.secret(path)
