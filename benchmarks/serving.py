"""The service under load: `python -m benchmarks.serving OUT.json [--minutes 10] [--data FOLDER]`.

A real server process on loopback with a promoted 64-pixel CNN, and a client in this process that sends as fast as it is
answered, over a few connections that stay open, for so many minutes. Every answer is compared with what the model and
its guards say when they are asked directly. The server's memory is sampled each second. Before that, the same load for
a short while with guards and without, in turn, for what the guards cost. FOLDER holds images as the data stage wrote
them (`data/student_task`); the promotion's gate results are made by hand, for no gate is measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil
import torch
import yaml
from PIL import Image

from tasks.data.dataset import Dataset, load_dataset
from tasks.files import write_json
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import accuracy_of, as_float
from tasks.models.training import fit
from tasks.params import load_params
from tasks.serving.champion import REFUSED, Champion, Output, answer
from tasks.serving.guards.calibration import calibrate, load_guards

ROOT = Path(__file__).resolve().parents[1]
NAME = "gatehouse-student"
CONNECTIONS = 4
FILES = 400  # distinct requests, of one image each
EPOCHS = 4
SHORT_SECONDS, TURNS = 15.0, 3  # of the comparison, for each of the two services
WARM_UP = 50  # requests, not counted
STARTS_WITHIN = 120.0  # seconds


@dataclass
class Load:
    """What a client saw. `latencies` in milliseconds; `wrong` holds the first few answers that were not the model's."""

    latencies: list[float] = field(default_factory=list)
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        p50, p95, p99 = np.quantile(self.latencies, [0.5, 0.95, 0.99]) if self.latencies else [float("nan")] * 3
        return {
            "requests": len(self.latencies),
            "a_second": round(len(self.latencies) / self.seconds, 2),
            "latency_ms": {"median": round(p50, 3), "p95": round(p95, 3), "p99": round(p99, 3)},
            "lost": self.lost,
            "wrong": len(self.wrong),
            "refused_by_guards": self.refused,
        }


def spec_of(data: Dataset) -> ModelSpec:
    channels, side = data.images.shape[1], data.images.shape[-1]
    return ModelSpec(architecture="simple_cnn", classes=data.classes, image_size=side, channels=channels)


def trained(data: Dataset, seed: int) -> Classifier:
    """A network that tells the classes apart, trained plainly for a few epochs."""
    model = build(spec_of(data), seed=seed)
    recipe = load_params(ROOT / "params.yaml").student.recipe().undefended().model_copy(update={"epochs": EPOCHS})
    fit(model, data.part("train"), data.part("val"), recipe, policy="all", seed=seed)
    return model


def promoted(root: Path, data: Dataset, model: Classifier, guards: tuple[str, ...], port: int) -> None:
    """A project folder whose registry holds the model as its proven champion, with these guards on."""
    sys.path[:0] = [str(ROOT / "tests/flows"), str(ROOT / "tests/tasks/promotion")]
    from promotion_case import make_case
    from proven_project import enthrone, inside

    from flows import registry
    from tasks.promotion.evidence import attest

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # No budget: one client asks as much as the machine can answer.
    limits = dict.fromkeys(("rate_per_minute", "images_per_day", "rate_per_minute_all", "images_per_day_all"), 0)
    params["serving"].update(port=port, **limits)
    params["run"]["threads"] = 1
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    case = make_case(root, model=(model, spec_of(data)))
    (root / ".gatehouse").mkdir()
    (root / "keys").rename(root / ".gatehouse" / "keys")
    shares = params["serving"]["false_refusals"]
    write_json(root / "guards.json", calibrate(model, data.part("val")[0], on=guards, false_refusals=shares, seed=7))
    attest(
        case.evidence,
        model_folder=case.model,
        gates_folder=case.gates,
        policy_path=root / "reports" / "policy.json",
        decision=case.decide(),
        key=case.key,
        extra={"params.yaml": root / "params.yaml", "guards.json": root / "guards.json"},
        code={},
        tools={},
    )
    with inside(root):
        version = registry.register(NAME, case.model, case.evidence, sha256=case.record.sha256, tags={})
        enthrone(version, case.record.sha256, case.evidence)


@contextmanager
def served(root: Path, port: int) -> Iterator[psutil.Process]:
    """The service as its own process, ready to answer."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen([sys.executable, "-m", "flows.serving"], cwd=root, env=environment)
    try:
        end = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ping", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("The service did not start; its own message is above.") from None
                time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def requests_of(
    data: Dataset, root: Path, model: Classifier, output: Output
) -> list[tuple[bytes, list[dict[str, Any]]]]:
    """Bodies, and for each the answer that the model and its signed guards give when they are asked directly."""
    images = data.part("test", limit=FILES, seed=7)[0]
    guards = load_guards((root / "guards.json").read_bytes(), model, source="guards.json")
    champion = Champion(model, spec_of(data), NAME, "1", "", output, guards)
    out = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
        row = {"image": base64.b64encode(file.getvalue()).decode()}
        wanted = [a.revealed for a in answer(champion, as_float(image[None]).numpy())]
        out.append((json.dumps({"dataframe_records": [row]}).encode(), wanted))
    return out


async def load(port: int, cases: list[tuple[bytes, list[dict[str, Any]]]], seconds: float) -> Load:
    """`CONNECTIONS` clients, each sending its next request as soon as the last is answered."""
    seen = Load()
    started = time.perf_counter()

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        i = number
        while time.perf_counter() - started < seconds:
            body, wanted = cases[i % len(cases)]
            i += CONNECTIONS
            asked = time.perf_counter()
            try:
                status, content = await ask(reader, writer, body)
            except (OSError, asyncio.IncompleteReadError):
                seen.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            seen.latencies.append((time.perf_counter() - asked) * 1000)
            got = json.loads(content).get("predictions")
            if status != 200 or not same(got, wanted):
                seen.wrong.append(f"{status} {content[:200]!r} instead of {wanted}")
            seen.refused += wanted == [REFUSED]
        writer.close()

    await asyncio.gather(*(one(n) for n in range(CONNECTIONS)))
    seen.seconds = time.perf_counter() - started
    return seen


def same(got: Any, wanted: list[dict[str, Any]]) -> bool:
    """Equal labels and refusals; scores to the rounding's last digit, which may fall either way."""
    if not isinstance(got, list) or [g.get("label") for g in got] != [w["label"] for w in wanted]:
        return False
    pairs = [(g.get("scores", {}), w.get("scores", {})) for g, w in zip(got, wanted, strict=True)]
    return all(g.keys() == w.keys() and all(abs(g[k] - w[k]) < 0.0101 for k in w) for g, w in pairs)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """One POST over an open connection: status and body."""
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()
    headers = await reader.readuntil(b"\r\n\r\n")
    length = next(int(h.split(b":")[1]) for h in headers.split(b"\r\n") if h.lower().startswith(b"content-length"))
    return int(headers.split(b" ", 2)[1]), await reader.readexactly(length)


async def watched(
    process: psutil.Process, port: int, cases: list[tuple[bytes, list[dict[str, Any]]]], seconds: float
) -> tuple[Load, list[float]]:
    """The load, and the server's resident memory each second, in MiB."""
    memory: list[float] = []
    task = asyncio.create_task(load(port, cases, seconds))
    while not task.done():
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.wait([task], timeout=1)
    return task.result(), memory


def flatness(memory: list[float]) -> dict[str, float]:
    """Mean of the first and of the last third, and their ratio."""
    third = max(len(memory) // 3, 1)
    first, last = float(np.mean(memory[:third])), float(np.mean(memory[-third:]))
    return {
        "first_third_mib": round(first, 2),
        "last_third_mib": round(last, 2),
        "ratio": round(last / first, 4),
        "most_mib": round(max(memory), 2),
    }


def measure(data: Dataset, folder: Path, minutes: float, command: str) -> dict[str, Any]:
    from flows.server import free_port

    torch.set_num_threads(1)
    model = trained(data, seed=7)
    services = {}
    for name, guards in (("guarded", ("backdoor", "distribution", "disagreement")), ("bare", ())):
        root, port = folder / name, free_port()
        promoted(root, data, model, guards, port)
        services[name] = (root, port, requests_of(data, root, model, "rounded"))
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
    (own, own_port, own_cases), (bare, bare_port, bare_cases) = services["guarded"], services["bare"]
    with served(own, own_port) as process, served(bare, bare_port):
        for port, cases in ((own_port, own_cases), (bare_port, bare_cases)):
            asyncio.run(load(port, cases[:WARM_UP], 2.0))
        for _ in range(TURNS):  # in turn: the machine's other work falls on both
            turns["guarded"].append(asyncio.run(load(own_port, own_cases, SHORT_SECONDS)).figures())
            turns["bare"].append(asyncio.run(load(bare_port, bare_cases, SHORT_SECONDS)).figures())
        long, memory = asyncio.run(watched(process, own_port, own_cases, minutes * 60))
    medians = {n: float(np.median([t["latency_ms"]["median"] for t in rows])) for n, rows in turns.items()}
    return {
        "name": "serving",
        "unit": "milliseconds, median of a request with one image",
        "ours": round(medians["guarded"], 3),
        "peers": {"the bare model": round(medians["bare"], 3)},
        "ratio": {"the bare model": round(medians["guarded"] / medians["bare"], 3)},
        "runs": TURNS,
        "by_run": turns,
        "load": long.figures()
        | {"minutes": minutes, "connections": CONNECTIONS, "memory": flatness(memory), "first_wrong": long.wrong[:5]},
        "accuracy": round(accuracy_of(model, data.part("test")), 6),
        "image_size": int(data.images.shape[-1]),
        "hardware": f"{os.cpu_count()} cores {platform.machine()}, no GPU, 1 thread; client and server on one machine",
        "command": command,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--data", type=Path, default=Path("data/student_task"))
    given = parser.parse_args()
    with TemporaryDirectory() as temporary:
        command = f"python -m benchmarks.serving reports/bench/{given.out.name} --minutes {given.minutes:g}"
        result = measure(load_dataset(given.data), Path(temporary), given.minutes, command)
    write_json(given.out, result)
    told = result["load"]
    print(
        f"{told['requests']} requests, {told['a_second']} a second, {told['lost']} lost, {told['wrong']} wrong; median "
        f"{result['ours']} ms with guards, {result['peers']['the bare model']} without; memory {told['memory']}"
    )
    if told["lost"] or told["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
