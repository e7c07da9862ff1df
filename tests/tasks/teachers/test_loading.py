"""The promise that nothing in a stranger's file is run, in every wrapping that a pickle comes in."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from teacher_files import hostile_files, torch_zip

from tasks.teachers import pickles
from tasks.teachers.formats import FORMATS
from tasks.teachers.loading import UnsafeFileError, read_tensors
from tasks.teachers.offers import hostile_pickle

KINDS = tuple(hostile_files(Path("x")))
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3), "b": torch.ones(2, dtype=torch.half)}


def saved(content: object, **how: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **how)
    return out.getvalue()


def test_the_payload_works_when_a_trusting_loader_meets_it(tmp_path: Path) -> None:
    """The control: without it the tests below could not fail."""
    marker = tmp_path / "PAYLOAD_RAN"
    pickle.loads(hostile_pickle(marker)).close()
    assert marker.exists()
    marker.unlink()
    with open(tmp_path / "zip.pth", "wb") as f:
        f.write(torch_zip(hostile_pickle(marker), ("weights/byteorder", b"little")))
    torch.load(tmp_path / "zip.pth", weights_only=False).close()
    assert marker.exists()


@pytest.mark.parametrize("declared", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_payload_never_runs(hostile: tuple[Path, dict[str, bytes]], kind: str, declared: str) -> None:
    marker, files = hostile
    with pytest.raises(UnsafeFileError):
        read_tensors(files[kind], declared, source="the file")
    assert not marker.exists()


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("bare")])
def test_refusal_comes_before_torch_and_names_the_reason(
    hostile: tuple[Path, dict[str, bytes]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("torch.load saw the file")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(UnsafeFileError, match=r"refused unread: (its pickle|the archive)"):
        read_tensors(hostile[1][kind], "pth", source="the file")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("bare") and "second" not in k])
def test_second_wall_holds_without_the_first(
    hostile: tuple[Path, dict[str, bytes]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, files = hostile
    monkeypatch.setattr(pickles, "inspect", lambda data: "")
    with pytest.raises(UnsafeFileError, match="cannot be loaded as weights only"):
        read_tensors(files[kind], "pth", source="the file")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_state_dicts_are_read(kind: type, zipped: bool) -> None:
    data = saved(kind(TENSORS), _use_new_zipfile_serialization=zipped)
    read = read_tensors(data, "pth", source="x")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in TENSORS.items())


def test_a_modules_own_state_dict_is_read() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    read = read_tensors(saved(module.state_dict()), "pth", source="x")
    assert all(torch.equal(read[k], v) for k, v in module.state_dict().items())


def test_parameters_become_plain_tensors() -> None:
    read = read_tensors(saved({"w": torch.nn.Parameter(torch.ones(3))}), "pth", source="x")
    assert type(read["w"]) is torch.Tensor
    assert not read["w"].requires_grad


def test_safetensors_are_read() -> None:
    read = read_tensors(save(TENSORS), "safetensors", source="x")
    assert torch.equal(read["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds a list"),
        ({}, "holds a dict"),
        ({"epoch": 3, "w": torch.ones(2)}, "'epoch' is a int"),
        ({1: torch.ones(2)}, "1 is a Tensor"),
        ({"state_dict": {"w": torch.ones(2)}}, "'state_dict' is a dict"),
    ],
)
def test_other_content_is_refused(content: object, words: str) -> None:
    with pytest.raises(UnsafeFileError, match=words):
        read_tensors(saved(content), "pth", source="x")


def test_whole_modules_and_other_protocols_are_refused() -> None:
    with pytest.raises(UnsafeFileError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_tensors(saved(torch.nn.Linear(2, 2)), "pth", source="x")
    with pytest.raises(UnsafeFileError, match="STACK_GLOBAL"):
        read_tensors(saved(TENSORS, pickle_protocol=4), "pth", source="x")


def test_archive_with_one_name_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = torch_zip(pickle.dumps({}, 2), ("weights/data.pkl", pickle.dumps({}, 2)))
    with pytest.raises(UnsafeFileError, match="one name twice"):
        read_tensors(data, "pth", source="x")


def test_damaged_files_are_refused() -> None:
    with pytest.raises(UnsafeFileError, match="damaged safetensors"):
        read_tensors(save(TENSORS) + hostile_pickle(Path("x")), "safetensors", source="x")
    legacy = saved(TENSORS, _use_new_zipfile_serialization=False)
    for cut in (60, len(legacy) - 3):
        with pytest.raises(UnsafeFileError):
            read_tensors(legacy[:cut], "pth", source="x")


def test_unsafe_format_is_refused_even_if_declared() -> None:
    with pytest.raises(UnsafeFileError, match="offer it as safetensors or pth"):
        read_tensors(pickle.dumps([1]), "pickle", source="x")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([True, False]), st.data())
def test_flipped_bytes_give_tensors_or_a_refusal(zipped: bool, draw: st.DataObject) -> None:
    data = bytearray(saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=zipped))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read = read_tensors(bytes(data), "pth", source="x")
    except UnsafeFileError:
        return
    assert all(isinstance(v, torch.Tensor) for v in read.values())
