from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes, sha256_file
from tasks.teachers.signatures import SignatureRefusedError, fingerprint, make_keys, sign, verify


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A folder `m` with weights and card, signed into `sig` by the owner of `a.key`; `b.key` is a stranger's."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/w.bin").write_bytes(b"weights")
    (tmp_path / "m/card.yaml").write_text("name: x")
    for name in "ab":
        make_keys(tmp_path / f"{name}.key", tmp_path / f"{name}.pub")
    sign(tmp_path / "m", tmp_path / "sig", private_key=tmp_path / "a.key")
    return tmp_path


def check(root: Path, *, key: str = "a", signature: str = "sig") -> dict[str, str]:
    weights = root / "m/w.bin"
    return verify(weights, sha256_file(weights), signature=root / signature, public_key=root / f"{key}.pub").files


def test_signed_folder_verifies_and_tells_what_it_covers(signed: Path) -> None:
    assert check(signed) == {"w.bin": sha256_bytes(b"weights"), "card.yaml": sha256_bytes(b"name: x")}
    (signed / "m/added-later.txt").write_text("not covered, and not in the way")
    assert check(signed)


def test_one_signed_file_verifies(signed: Path) -> None:
    sign(signed / "m/w.bin", signed / "sig1", private_key=signed / "a.key")
    assert check(signed, signature="sig1") == {".": sha256_bytes(b"weights")}


def test_private_key_is_for_its_owner_alone_and_is_not_overwritten(signed: Path) -> None:
    assert stat.S_IMODE((signed / "a.key").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        make_keys(signed / "a.key", signed / "a.pub")


def test_other_content_is_refused(signed: Path) -> None:
    (signed / "m/w.bin").write_bytes(b"Weights")
    with pytest.raises(SignatureRefusedError, match="other content"):
        check(signed)


def test_changed_card_is_refused(signed: Path) -> None:
    (signed / "m/card.yaml").write_text("name: y")
    with pytest.raises(SignatureRefusedError, match=r"card\.yaml"):
        check(signed)


def test_another_key_is_refused(signed: Path) -> None:
    with pytest.raises(SignatureRefusedError, match="Key mismatch"):
        check(signed, key="b")


def test_forged_statement_is_refused(signed: Path) -> None:
    """The bundle of a stranger, relabelled with the trusted key's hint, and a changed signature."""
    sign(signed / "m", signed / "forged", private_key=signed / "b.key")
    theirs, ours = (json.loads((signed / name).read_text()) for name in ("forged", "sig"))
    theirs["verificationMaterial"] = ours["verificationMaterial"]
    (signed / "forged").write_text(json.dumps(theirs))
    with pytest.raises(SignatureRefusedError, match="not made with the key"):
        check(signed, signature="forged")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"dsseEnvelope": {"payload": "e30="}}', '{"dsseEnvelope": 3}'])
def test_garbage_is_refused(signed: Path, content: str) -> None:
    (signed / "sig").write_text(content)
    with pytest.raises(SignatureRefusedError, match="not a Sigstore bundle"):
        check(signed)


def test_bundle_without_signatures_is_refused(signed: Path) -> None:
    bundle = json.loads((signed / "sig").read_text())
    bundle["dsseEnvelope"]["signatures"] = []
    (signed / "sig").write_text(json.dumps(bundle))
    with pytest.raises(SignatureRefusedError):
        check(signed)


def test_missing_signature_and_missing_or_broken_key(signed: Path) -> None:
    with pytest.raises(SignatureRefusedError, match="does not exist"):
        check(signed, signature="none")
    with pytest.raises(GatehouseError, match="does not exist"):
        check(signed, key="none")
    (signed / "a.pub").write_text("no key")
    with pytest.raises(GatehouseError, match="not a public key in PEM"):
        check(signed)


def test_fingerprint_is_of_the_key_and_not_of_its_file(signed: Path) -> None:
    before = fingerprint(signed / "a.pub")
    (signed / "a.pub").write_bytes((signed / "a.pub").read_bytes().replace(b"\n", b"\r\n"))
    assert fingerprint(signed / "a.pub") == before != fingerprint(signed / "b.pub")
