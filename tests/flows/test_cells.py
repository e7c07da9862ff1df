"""Cells: every outcome in order, kept over a kill, one cell's fault never another's."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, ConfigDict

from flows.cells import cell_key, cell_name, run_cells
from tasks.errors import GatehouseError


@dataclass(frozen=True)
class Number:
    value: int
    folder: str = ""
    conduct: str = "square"


class Named(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    value: int


def work(cell: Number) -> dict[str, object]:
    if cell.folder:
        (Path(cell.folder) / f"ran_{cell.value}").touch()
    if cell.conduct == "slow":
        time.sleep(60)
    if cell.conduct == "refuse":
        raise GatehouseError(f"No {cell.value} here; take another.")
    if cell.conduct == "fault":
        return {"square": [1][cell.value]}
    if cell.conduct == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.conduct == "nan":
        return {"square": float("nan")}
    generator = torch.Generator().manual_seed(cell.value)
    return {
        "square": cell.value**2,
        "drawn": torch.rand(1, generator=generator).item(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "process": os.getpid(),
    }


def twice(cell: Named) -> dict[str, int]:
    return {"twice": 2 * cell.value}


def test_workers_give_the_same_results_in_the_cells_order(tmp_path: Path) -> None:
    cells = [Number(v) for v in (3, 1, 2, 1)]
    here = run_cells(cells, work, folder=tmp_path / "here", workers=1)
    apart = run_cells(cells, work, folder=tmp_path / "apart", workers=2)
    own = ("square", "drawn", "threads", "deterministic")
    assert [[o.result[k] for k in own] for o in here] == [[o.result[k] for k in own] for o in apart]
    assert [o.result["square"] for o in apart] == [9, 1, 4, 1]
    assert all(o.result["threads"] == 1 and o.result["deterministic"] for o in [*here, *apart])
    assert {o.result["process"] for o in here} == {os.getpid()}
    assert os.getpid() not in {o.result["process"] for o in apart}
    assert len(list((tmp_path / "apart").glob("*.json"))) == 3


def test_a_second_run_computes_nothing_and_a_new_version_everything(tmp_path: Path) -> None:
    cells = [Number(v, str(tmp_path)) for v in range(3)]
    first = run_cells(cells[:2], work, folder=tmp_path / "kept", workers=1)
    for path in tmp_path.glob("ran_*"):
        path.unlink()
    seen: list[tuple[int, int, str]] = []
    again = run_cells(
        cells,
        work,
        folder=tmp_path / "kept",
        workers=1,
        progress=lambda done, total, text: seen.append((done, total, text)),
    )
    assert [o.cached for o in again] == [True, True, False]
    assert [o.result for o in again[:2]] == [o.result for o in first]
    assert [p.name for p in tmp_path.glob("ran_*")] == ["ran_2"]
    assert [(done, total) for done, total, _ in seen] == [(3, 3)]
    assert "value 2" in seen[0][2]
    newer = run_cells(cells, work, folder=tmp_path / "kept", workers=1, version="2")
    assert not any(o.cached for o in newer)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_is_one_sentence_and_is_tried_again(tmp_path: Path, workers: int) -> None:
    cells = [Number(1), Number(2, conduct="refuse"), Number(3, conduct="fault"), Number(4, conduct="nan"), Number(5)]
    outcomes = run_cells(cells, work, folder=tmp_path, workers=workers)
    assert [o.result is not None for o in outcomes] == [True, False, False, False, True]
    assert outcomes[1].error == "No 2 here; take another."
    assert outcomes[2].error.startswith("IndexError in test_cells.py, line ")
    assert "ValueError" in outcomes[3].error
    assert not any("\n" in o.error for o in outcomes)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_process_that_dies_costs_its_own_cell_only(tmp_path: Path) -> None:
    cells = [Number(1), Number(2, conduct="die"), Number(3), Number(4)]
    outcomes = run_cells(cells, work, folder=tmp_path, workers=2)
    assert [o.result["square"] if o.result else None for o in outcomes] == [1, None, 9, 16]
    assert "ended with code -9" in outcomes[1].error


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom flows.cells import run_cells\nfrom test_cells import Number, work\n"
        f"cells = [Number(1), Number(2), Number(3, conduct='slow'), Number(4)]\n"
        f"run_cells(cells, work, folder=Path({str(tmp_path / 'kept')!r}), workers=1)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("kept/*.json"))) < 2 and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    outcomes = run_cells([Number(1), Number(2), Number(4)], work, folder=tmp_path / "kept", workers=1)
    assert [o.cached for o in outcomes] == [True, True, False]
    assert not list(tmp_path.glob("kept/.*"))


def test_keys_tell_cells_works_and_versions_apart(tmp_path: Path) -> None:
    keys = {
        cell_key(Number(1), work),
        cell_key(Number(2), work),
        cell_key(Number(1), work, "2"),
        cell_key(Named(name="one", value=1), twice),
        cell_key(Named(name="one", value=1), work),
    }
    assert len(keys) == 5
    assert cell_key(Number(1), work) == cell_key(Number(1), work)
    assert cell_name(Named(name="one", value=1)) == "one"
    [outcome] = run_cells([Named(name="one", value=21)], twice, folder=tmp_path, workers=1)
    assert outcome.result == {"twice": 42}
    kept = json.loads((tmp_path / f"{outcome.key}.json").read_text())
    assert kept["cell"] == {"name": "one", "value": 21}
    assert kept["result"] == outcome.result


def test_no_cells_no_work(tmp_path: Path) -> None:
    assert run_cells([], work, folder=tmp_path, workers=2) == []


def test_work_that_no_other_process_can_import_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match="top level of a module"):
        run_cells([Number(1)], lambda cell: {}, folder=tmp_path, workers=1)


def test_a_result_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"{cell_key(Number(1), work)}.json"
    path.write_text("[]")
    with pytest.raises(GatehouseError, match=path.name):
        run_cells([Number(1)], work, folder=tmp_path, workers=1)


def test_the_environment_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    run_cells([Number(1)], work, folder=tmp_path, workers=1)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match="extra `ray`"):
        run_cells([Number(1)], work, folder=tmp_path, workers=1, ray=True)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
def test_ray_gives_the_same_results(tmp_path: Path) -> None:
    cells = [Number(1), Number(2, conduct="refuse"), Number(3, conduct="die"), Number(4)]
    here = run_cells([cells[0], cells[3]], work, folder=tmp_path / "here", workers=1)
    there = run_cells(cells, work, folder=tmp_path / "there", workers=2, ray=True)
    assert [there[i].result["drawn"] for i in (0, 3)] == [o.result["drawn"] for o in here]
    assert there[1].error == "No 2 here; take another."
    assert there[2].error.startswith("Ray lost the cell")
