"""The secret behind the noise: made once, kept from others, and never the same noise for two models."""

import os

import pytest

from tasks.errors import GatehouseError
from tasks.privacy.noise import noise_seed, project_secret


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "keys" / "noise.seed"
    secret = project_secret(path)
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert project_secret(path) == secret
    assert os.listdir(path.parent) == ["noise.seed"]
    assert project_secret(tmp_path / "other") != secret


def test_of_two_processes_that_make_it_the_first_wins(tmp_path, monkeypatch):
    path = tmp_path / "noise.seed"
    first = project_secret(path)
    exists = type(path).exists
    # The second process looked before the first one wrote.
    monkeypatch.setattr(type(path), "exists", lambda self: False if self == path else exists(self))
    assert project_secret(path) == first


def test_a_damaged_or_open_secret_is_refused(tmp_path):
    short = tmp_path / "short"
    short.write_bytes(b"abc")
    short.chmod(0o600)
    with pytest.raises(GatehouseError, match="must hold 32 bytes that only its owner can read"):
        project_secret(short)
    open_to_all = tmp_path / "open"
    open_to_all.write_bytes(bytes(32))
    open_to_all.chmod(0o644)
    with pytest.raises(GatehouseError, match="only its owner"):
        project_secret(open_to_all)


def test_the_seed_depends_on_the_secret_and_on_every_input():
    secret = bytes(range(32))
    seeds = [
        noise_seed(secret, "7", "data"),
        noise_seed(secret, "7", "data2"),
        noise_seed(secret, "8", "data"),
        noise_seed(secret, "7d", "ata"),
        noise_seed(bytes(32), "7", "data"),
    ]
    assert len(set(seeds)) == 5
    assert seeds[0] == noise_seed(secret, "7", "data")
    assert all(0 <= s < 2**63 for s in seeds)
