"""The service as a real process under load: a new champion takes over, and the process is killed; nothing is lost."""

from __future__ import annotations

import base64
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))

from proven_project import Case, images, inside, make_case, make_project, promote

from tasks.models.checkpoints import load_model
from tasks.models.inference import as_float, probabilities
from tasks.serving.log import read_history
from tasks.serving.statistics import digests
from tests.end_to_end.site import Site, wait_for

pytestmark = pytest.mark.end_to_end
CLIENTS = 4
UNLIMITED = ("rate_per_minute", "rate_per_minute_all", "images_per_day", "images_per_day_all")


@dataclass(frozen=True)
class Answer:
    digest: str
    status: int
    version: str
    label: str | None
    at: float


class Clients:
    """They ask about one image after another, no image twice, and stop when told or when the service is gone."""

    def __init__(self, url: str, sent: np.ndarray) -> None:
        self.answers: list[Answer] = []
        self.broken = 0  # requests without an answer
        self._url, self._sent, self._digests = url, sent, digests(as_float(sent).numpy())
        self._next, self._stop = count(), threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set() and (i := next(self._next)) < len(self._sent):
                buffer = io.BytesIO()
                Image.fromarray(self._sent[i, 0]).save(buffer, "PNG")
                file = base64.b64encode(buffer.getvalue()).decode()
                try:
                    got = client.post(f"{self._url}/invocations", json={"dataframe_records": [{"image": file}]})
                except httpx.HTTPError:
                    self.broken += 1
                    return
                version = got.headers.get("x-model-version", "")
                label = got.json()["predictions"][0]["label"] if got.status_code == 200 else got.text
                self.answers.append(Answer(self._digests[i], got.status_code, version, label, time.monotonic()))

    def until(self, done: Callable[[list[Answer]], bool]) -> None:
        end = time.monotonic() + 60
        while not done(self.answers):
            assert time.monotonic() < end, self.answers[-3:]
            time.sleep(0.05)

    def stop(self) -> list[Answer]:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
        return self.answers


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Case, str]:
    """A project whose service looks for a new champion each second and has no budgets."""
    site = Site(tmp_path_factory.mktemp("faults"))
    case = make_project(site.root)
    params = yaml.safe_load((site.root / "params.yaml").read_text())
    params["serving"].update(poll_seconds=1, **dict.fromkeys(UNLIMITED, 0))
    (site.root / "params.yaml").write_text(yaml.safe_dump(params))
    return site, case, f"http://127.0.0.1:{params['serving']['port']}"


@contextmanager
def service(site: Site, url: str) -> Iterator[object]:
    process = site.start("flows.serving")
    try:
        wait_for(lambda: httpx.get(f"{url}/ping", timeout=5).status_code == 200, process, site, "flows.serving")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def labels_of(case: Case, sent: np.ndarray) -> dict[str, str]:
    model, record = load_model(case.model)
    best = probabilities(model, sent).argmax(1).tolist()
    return dict(zip(digests(as_float(sent).numpy()), [record.spec.classes[i] for i in best], strict=True))


def test_a_new_champion_takes_over_under_load_without_a_lost_or_wrong_answer(house: tuple[Site, Case, str]) -> None:
    site, first, url = house
    second = make_case(site.root / "second", seed=1)
    second.key = first.key
    (second.root / "params.yaml").write_bytes((site.root / "params.yaml").read_bytes())
    sent = images(20_000, seed=8)
    with service(site, url):
        clients = Clients(url, sent)
        clients.until(lambda answers: len(answers) > 50)
        promote(second, site.root)
        clients.until(lambda answers: sum(a.version == "2" for a in list(answers)) > 50)
        answers = clients.stop()
    assert clients.broken == 0
    assert {a.status for a in answers} == {200}
    wanted = {"1": labels_of(first, sent), "2": labels_of(second, sent)}
    assert {a.version for a in answers} == set(wanted)
    given = [a for a in answers if a.label is not None]  # guards refuse a few of any images
    assert len(given) > 0.5 * len(answers)
    assert all(a.label == wanted[a.version][a.digest] for a in given)
    change = min(a.at for a in answers if a.version == "2")
    assert max(a.at for a in answers if a.version == "1") < change + 1.0  # what was under way ended on the old one
    with inside(site.root):
        logged = read_history(".gatehouse/requests.db", since=0)
    assert sorted(logged.images["sha256"]) == sorted(a.digest for a in answers)


def test_a_service_killed_under_load_has_logged_each_answer_once(house: tuple[Site, Case, str]) -> None:
    site, _, url = house
    with service(site, url) as process:
        clients = Clients(url, images(20_000, seed=9))
        clients.until(lambda answers: len(answers) > 200)
        process.kill()  # type: ignore[attr-defined]
        answers = clients.stop()
    assert 0 < clients.broken <= CLIENTS
    with service(site, url):
        pass
    with inside(site.root):
        logged = read_history(".gatehouse/requests.db", since=0).images["sha256"]
    assert {a.digest for a in answers} <= set(logged)
    assert logged.is_unique
