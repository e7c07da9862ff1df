"""MLflow's own server with basic-auth: a plain user cannot set an alias; and serving does not care if one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow.exceptions import MlflowException

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))

from proven_project import NAME, Case, make_case, make_project, promote

from flows import registry
from flows.champion import UnprovenError, load_champion
from flows.server import free_port
from tasks.params import load_params

pytestmark = pytest.mark.end_to_end

ADMIN, PLAIN = ("admin", "an-admin-of-this-test"), ("reader", "a-reader-of-this-test")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root, port = tmp_path_factory.mktemp("mlflow"), free_port()
    (root / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{root}/users.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(root / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_healthy(process, url, root / "server.log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", auth=ADMIN).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail(f"MLflow's server did not become healthy:\n{log.read_text()[-2000:]}")


def act_as(patch: pytest.MonkeyPatch, user: tuple[str, str], folder: Path) -> None:
    """In this folder, as this user of the server."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    patch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])


@pytest.fixture
def promoted(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, Path]:
    """Two champions in their turn, promoted by the admin; a serving host of the plain user, which has no chain."""
    import proven_project

    def at_the_server(root: Path):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        act_as(monkeypatch, ADMIN, root)
        return nullcontext()

    monkeypatch.setattr(proven_project, "inside", at_the_server)
    root, host = tmp_path / "project", tmp_path / "host"
    root.mkdir()
    first = make_project(root)
    other = make_case(root / "second", seed=1)
    other.key = first.key
    (other.root / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    assert promote(other, root) == "2"
    httpx.post(
        f"{server}/api/2.0/mlflow/users/create", auth=ADMIN, json={"username": PLAIN[0], "password": PLAIN[1]}
    ).raise_for_status()
    (host / ".gatehouse" / "keys").mkdir(parents=True)
    for name in ("params.yaml", ".gatehouse/keys/trusted.json"):
        (host / name).write_bytes((root / name).read_bytes())
    (host / ".gatehouse" / "keys" / "trusted.json").chmod(0o600)
    return other, host


def test_who_may_move_the_alias_and_what_it_helps(promoted: tuple[Case, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    case, host = promoted
    act_as(monkeypatch, PLAIN, host)
    champion = load_champion(load_params().promotion)
    assert (champion.version, champion.proven.sha256) == ("2", case.record.sha256)
    for forbidden in (
        lambda: registry.crown(NAME, "1"),
        lambda: registry.publish_ruling(NAME, "{}"),
    ):
        with pytest.raises(MlflowException, match=r"error code 403 .*Permission denied"):
            forbidden()
    assert load_champion(load_params().promotion).version == "2"

    act_as(monkeypatch, ADMIN, host)
    registry.crown(NAME, "1")
    act_as(monkeypatch, PLAIN, host)
    fetched = host / registry.DOWNLOADS / NAME
    assert {p.name for p in fetched.iterdir()} == {"2"}  # fetched once, and verified each time
    with pytest.raises(UnprovenError, match="the newest decision promoted version 2: somebody moved the alias"):
        load_champion(load_params().promotion)
    assert {p.name for p in fetched.iterdir()} == {"2"}  # what is refused is not kept
