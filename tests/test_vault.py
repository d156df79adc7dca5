"""Secrets at rest: the key beside the data is there whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from durable_agent.errors import InvalidRequest
from durable_agent.vault import FILE, Vault, secret_beside


def test_the_key_beside_the_data_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    made = secret_beside(tmp_path)
    assert len(made) == 44
    assert secret_beside(tmp_path) == made
    assert [(file.name, file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == [(FILE, 0o600)]


def test_a_key_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    made = secret_beside(tmp_path)
    assert made == (tmp_path / FILE).read_text() == secret_beside(tmp_path)
    assert len(made) == 44


def test_a_crash_before_the_key_is_written_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(size: int) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "urandom", crash)
    with pytest.raises(KeyboardInterrupt):
        secret_beside(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_who_ask_at_once_have_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: secret_beside(tmp_path), range(64)))) == 1


def test_a_secret_is_opened_with_the_key_it_was_locked_with_and_no_other() -> None:
    sealed = Vault("one").lock("secret")
    assert b"secret" not in sealed
    assert Vault("one").open(sealed) == "secret"
    with pytest.raises(InvalidRequest, match="another"):
        Vault("two").open(sealed)
    with pytest.raises(InvalidRequest, match="SECRET_KEY"):
        Vault(None).open(sealed)
