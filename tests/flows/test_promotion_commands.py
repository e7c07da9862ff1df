"""What an operator does beside the stage: history, rollback, withdraw, rotate, revoke, verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from proven_project import NAME, Case, inside, make_case, make_project, promote

from flows import registry
from flows.champion import UnprovenError, champion_standing, load_champion
from flows.promotion_commands import run
from flows.rulings import record
from tasks.errors import GatehouseError
from tasks.files import read_json
from tasks.params import load_params
from tasks.promotion.keys import signing_key
from tasks.promotion.ledger import LEDGER, read
from tasks.promotion.trust import load_trust


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Case]]:
    root = tmp_path_factory.mktemp("house")
    cases = [make_project(root)]
    for seed in (1, 2):
        case = make_case(root / str(seed), seed=seed)
        case.key = cases[0].key
        (case.root / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
        promote(case, root)
        cases.append(case)
    with inside(root):
        yield cases


def version() -> str:
    return load_champion(load_params().promotion).version


def decisions() -> list[str]:
    return [e["decision"] for e in read(LEDGER, load_trust(load_params().promotion.signing_key))]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 1
    return " ".join(capsys.readouterr().out.split())


def test_the_life_of_a_champion(house: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    """One story, in order, because each step builds on what the one before it left."""
    assert version() == "3"
    assert run(["verify"]) == 0
    assert "The chain of 3 decisions is whole and signed" in capsys.readouterr().out

    # Back to the one before, and once more: never forward again to what was left.
    assert run(["rollback", "--reason", "It errs on new scanners."]) == 0
    assert version() == "2"
    assert run(["rollback"]) == 0
    assert version() == "1"
    assert "Cannot put a version before the present one" in refused(["rollback"], capsys)
    assert run(["rollback", "3"]) == 0
    assert version() == "3"
    assert champion_standing(load_params().promotion, house[2].record.sha256) == ""
    assert "A later decision made version 3" in champion_standing(load_params().promotion, house[0].record.sha256)

    # Out of service, and no way back to it but another promotion.
    assert "Version 1 is not the champion" in refused(["withdraw", "1", "--reason", "Why."], capsys)
    assert run(["withdraw", "3", "--reason", "An advisory names its teacher."]) == 0
    with pytest.raises(UnprovenError, match="An advisory names its teacher"):
        version()
    assert "nothing to withdraw" in refused(["withdraw", "--reason", "Why."], capsys)
    assert "was taken out of service (An advisory" in refused(["rollback", "3"], capsys)
    assert run(["rollback"]) == 0
    assert version() == "2"

    # What was never promoted, or is no longer what was promoted, is not put back.
    assert "no decision made such a version champion" in refused(["rollback", "9"], capsys)
    weights = registry.version_folder(NAME, "1") / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "is not the file that was signed" in refused(["rollback", "1"], capsys)
    weights.write_bytes(kept)

    # An alias that was moved by hand is mended by putting back what the decisions say.
    registry.crown(NAME, "1")
    assert run(["verify"]) == 1
    assert "somebody moved the alias" in capsys.readouterr().out
    assert run(["rollback", "2"]) == 0
    assert version() == "2"

    assert run(["history"]) == 0
    shown = capsys.readouterr().out
    assert "It errs on new scanners." in shown
    assert decisions() == [
        *("promoted", "promoted", "promoted"),
        *("rolled_back", "rolled_back", "rolled_back", "withdrawn", "rolled_back", "rolled_back"),
    ]

    # Keys: the old one counts after a rotation; revoked, it does not, and nothing that it signed can be put back.
    old = read_json(Path(".gatehouse/keys/trusted.json"))["keys"][0]["key_id"]
    assert run(["rotate"]) == 0
    assert version() == "2"
    assert run(["revoke", old[:8], "--reason", "stolen"]) == 0
    with pytest.raises(UnprovenError, match=r"was revoked on .* \(stolen\)"):
        version()
    assert "was revoked" in refused(["rollback", "1"], capsys)
    assert "Nothing to do" in refused(["revoke", old[:8], "--reason", "stolen"], capsys)
    assert run(["keys"]) == 0
    assert "its signatures count" in capsys.readouterr().out

    # Signed anew with the new key, it reigns again.
    house[1].key = signing_key(Path(".gatehouse/keys/promotion.key"))
    promote(house[1], Path.cwd())
    assert version() == "4"
    assert run(["history"]) == 0
    assert decisions()[-3:] == ["key_rotated", "key_revoked", "promoted"]

    # A chain that was moved aside goes on from the ruling that the registry keeps.
    LEDGER.rename(LEDGER.with_suffix(".aside"))
    record(load_params().promotion, {"decision": "refused", "version": None, "reasons": ["privacy.epsilon: failed"]})
    assert version() == "4"
    assert run(["withdraw", "--reason", "A drill."]) == 0
    assert decisions() == ["continued", "refused", "withdrawn"]
    LEDGER.unlink()
    with pytest.raises(UnprovenError, match="A drill"):
        version()


def test_a_folder_that_nothing_proves(house: list[Case], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["verify", str(tmp_path)]) == 1
    assert "has no evidence" in " ".join(capsys.readouterr().out.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ("verify", "history", "rollback", "withdraw", "keys", "rotate", "revoke"):
        assert name in text


def test_before_any_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_bytes((Path(__file__).parents[2] / "params.yaml").read_bytes())
    with inside(tmp_path):
        signing_key(Path(load_params().promotion.signing_key))
        assert run(["history"]) == 0
        assert "No decision has been taken" in capsys.readouterr().out
        assert "promote one first" in refused(["rollback"], capsys)
        with pytest.raises(GatehouseError, match="has no champion"):
            load_champion(load_params().promotion)


def test_a_refusal_is_recorded_where_the_registry_was_lost(
    house: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    record(load_params().promotion, {"decision": "refused", "version": None, "sha256": "0" * 64})
    assert decisions()[-1] == "refused"
    assert registry.published_ruling(NAME) is None
    with pytest.raises(GatehouseError, match="has no champion"):
        load_champion(load_params().promotion)
