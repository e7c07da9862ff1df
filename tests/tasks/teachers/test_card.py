from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from teacher_files import card_content

from tasks.errors import GatehouseError
from tasks.teachers.card import Card, load_card, load_offers

ROOT = Path(__file__).parents[3]


def write(folder: Path, content: Any, name: str = "card.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_card_is_read_and_its_files_resolve_beside_it(tmp_path: Path) -> None:
    offer = load_card(write(tmp_path, card_content()))
    assert offer.weights == tmp_path / "weights.safetensors"
    assert offer.card.class_names == ("dark", "bright")
    assert Path("/elsewhere/x") == offer.beside("/elsewhere/x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "abc"}, ("sha256", "abc")),
        ({"surprise": 1}, ("surprise", "unknown", "advised_freeze")),
        ({"architecture": "vgg"}, ("architecture", "vgg", "simple_cnn")),
        ({"format": "bin"}, ("format", "bin", "safetensors")),
        ({"classes": ["one"]}, ("classes", "two or more")),
        ({"classes": ["one", "one"]}, ("classes", "two or more")),
        ({"classes": 1}, ("classes", "two or more")),
        ({"channels": 2}, ("channels", "2")),
        ({"normalisation": {"mean": [0.5], "sd": [0.0]}}, ("normalisation", "above 0")),
        ({"normalisation": {"mean": [0.5, 0.5], "sd": [0.2, 0.2]}}, ("normalisation", "one a channel")),
        ({"normalisation": {"mean": [0.5] * 3, "sd": [0.2] * 3}}, ("channels is 1",)),
        ({"provider": {"name": "x", "trust": "blind"}}, ("provider.trust", "blind")),
        ({"public": "yes, surely"}, ("public",)),
        ({"name": "../escape"}, ("name", "escape")),
    ],
)
def test_wrong_key_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    path = write(tmp_path, card_content(**changes))
    with pytest.raises(GatehouseError) as caught:
        load_card(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_missing_key_broken_yaml_and_missing_file(tmp_path: Path) -> None:
    content = card_content()
    del content["licence"]
    with pytest.raises(GatehouseError, match="licence is missing"):
        load_card(write(tmp_path, content))
    with pytest.raises(GatehouseError, match="not valid YAML"):
        load_card(write(tmp_path, "a: [1"))
    with pytest.raises(GatehouseError, match="must hold keys"):
        load_card(write(tmp_path, "just text"))
    with pytest.raises(GatehouseError, match="does not exist"):
        load_card(tmp_path / "none.yaml")


def test_a_card_cannot_construct_python_objects(tmp_path: Path) -> None:
    marker = tmp_path / "RAN"
    with pytest.raises(GatehouseError, match="not valid YAML"):
        load_card(write(tmp_path, f"name: !!python/object/apply:io.open ['{marker}', 'w']"))
    assert not marker.exists()


def test_offers_need_a_card_and_different_names(tmp_path: Path) -> None:
    one, two = (str(write(tmp_path, card_content(), f"{n}.yaml")) for n in "ab")
    with pytest.raises(GatehouseError, match=r"teacher\.cards is empty"):
        load_offers(())
    with pytest.raises(GatehouseError, match="two cards named 'candidate'"):
        load_offers((one, two))
    assert [o.card.name for o in load_offers((one,))] == ["candidate"]


def test_spec_takes_statistics_a_channel_and_counts_classes() -> None:
    card = Card.model_validate(card_content(channels=3, classes=5))
    spec = card.spec(channels=1, image_size=64)
    assert spec.mean == (0.5, 0.5, 0.5)
    assert spec.classes == ("class_0000", "class_0001", "class_0002", "class_0003", "class_0004")
    assert (spec.channels, spec.image_size) == (1, 64)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18_torchvision"])
def test_example_cards_are_valid(name: str) -> None:
    card = load_card(ROOT / "cards" / f"{name}.yaml").card
    assert card.name == name
    assert len(card.class_names) == 1000
