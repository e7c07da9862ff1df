"""Profiles: small overlays of params.yaml, laid over the file itself so that DVC and its own commands see one truth.

What an overlay replaced is remembered in .gatehouse/overlay.json; the next run takes it back before it lays another,
except where the user has changed the value since.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, write_text
from tasks.params import PARAMS_FILE, Params, parse_params

PROFILES = Path("profiles")
OVERLAY = Path(".gatehouse/overlay.json")
DEFAULT = "default"


def known_profiles() -> list[str]:
    return [DEFAULT, *sorted(p.stem for p in PROFILES.glob("*.yaml"))]


def apply_profile(name: str, data: str | None) -> list[str]:
    """Make params.yaml say what the profile says; returns the keys that now differ from the base, sorted.

    Raises:
        GatehouseError: unknown profile, or values that params.yaml may not hold (the file is then left as it was).
    """
    overlay = _overlay(name, data)
    yaml_file = YAML()
    yaml_file.preserve_quotes = True
    yaml_file.width = 200
    before = PARAMS_FILE.read_text(encoding="utf-8")
    base = _untouched_base(before)
    tree = yaml_file.load(base or before)
    if base is None:
        _take_back(tree)
    replaced = {key: _get(tree, key) for key in overlay}
    for key, value in overlay.items():
        _set(tree, key, value)
    parse_params(_plain(tree), source=f"profiles/{name}.yaml over {PARAMS_FILE}" if overlay else str(PARAMS_FILE))
    stream = StringIO()
    yaml_file.dump(tree, stream)
    base = base or before
    text = stream.getvalue() if _plain(tree) != yaml.safe_load(base) else base
    # Remember first, write second: if the second never happens, taking back finds nothing to take.
    keys = {k: [_plain(replaced[k]), v] for k, v in overlay.items()}
    write_json(OVERLAY, {"profile": name, "keys": keys, "base": base, "laid": sha256_bytes(text.encode())})
    if text != before:
        write_text(PARAMS_FILE, text)
    return sorted(overlay)


def profile_params(name: str, data: str | None) -> Params:
    """The parameters as the profile makes them; params.yaml itself stays as it is."""
    tree = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
    for key, value in _overlay(name, data).items():
        _get(tree, key)
        _set(tree, key, value)
    return parse_params(tree, source=f"profiles/{name}.yaml over {PARAMS_FILE}")


def _overlay(name: str, data: str | None) -> dict[str, Any]:
    """Dotted keys and the values that the profile gives them."""
    if name != DEFAULT and not (PROFILES / f"{name}.yaml").exists():
        raise GatehouseError(
            f"Profile {name!r} does not exist in {PROFILES}/; known are {', '.join(known_profiles())}."
        )
    overlay: dict[str, Any] = {}
    if name != DEFAULT:
        content = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {}
        overlay = _flatten(content)
    if data is not None:
        if not Path(data).exists():
            raise GatehouseError(f"Data folder {data} does not exist; give an existing folder as DATA=FOLDER.")
        overlay["data.root"] = data
    elif overlay.get("data.source") in ("folder", "medmnist") and "data.root" not in overlay:
        verb = "study" if name.startswith("study_") else "run"
        raise GatehouseError(f"Profile {name} needs data: run `make {verb} PROFILE={name} DATA=FOLDER`.")
    return overlay


def _untouched_base(text: str) -> str | None:
    """The file as it was before the last overlay, to the letter, where nobody has touched it since."""
    if not OVERLAY.exists():
        return None
    last = read_json(OVERLAY)
    return str(last["base"]) if sha256_bytes(text.encode()) == last["laid"] else None


def _take_back(tree: Any) -> None:
    if not OVERLAY.exists():
        return
    for key, (base, laid) in read_json(OVERLAY)["keys"].items():
        if _plain(_get(tree, key)) == laid:
            _set(tree, key, base)


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; a mapping written as a value of `offers` or `thresholds` replaces the whole."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and key not in ("offers", "thresholds"):
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _get(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            raise GatehouseError(f"A profile sets {key}, which {PARAMS_FILE} does not know; correct the profile.")
        tree = tree[part]
    return tree


def _set(tree: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def _plain(value: Any) -> Any:
    """ruamel's round-trip types as plain Python."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)
