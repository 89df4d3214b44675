"""The file of keys: who may write it, what becomes of it when it changes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest

from vllm_mega.access.keyfile import VARIABLE, change_keys, keys_from, read_keys
from vllm_mega.access.keys import KeyBook, new_key
from vllm_mega.errors import ConfigError


def add(path: Path, name: str) -> str:
    key, entry = new_key(name, "read", None)
    change_keys(path, lambda book: book.with_key(entry))
    return key


def add_many(path: Path, names: list[str]) -> None:
    for name in names:
        add(path, name)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old = os.umask(0)
    try:
        add(file, "alice")
    finally:
        os.umask(old)
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_server_sees_new_keys_and_revoked_ones(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = add(file, "alice")
    keys = keys_from(file, {})
    assert keys is not None
    assert keys().find(first)
    second = add(file, "bob")
    assert keys().find(second)
    change_keys(file, lambda book: book.without_key("alice"))
    assert keys().find(first) is None
    assert keys().find(second)


def test_a_file_that_breaks_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file, "alice")
    keys = keys_from(file, {})
    assert keys is not None
    file.write_text("{")
    for _ in range(2):
        with pytest.raises(ConfigError, match="holds no keys of ours"):
            keys()
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        keys()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    names = [[f"{who}{n}" for n in range(15)] for who in "ab"]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_many, args=(file, some)) for some in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert {entry.name for entry in read_keys(file).keys} == {*names[0], *names[1]}


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file, "alice")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="no key called"):
        change_keys(file, lambda book: book.without_key("bob"))
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="cannot be written"):
        add(tmp_path / "nowhere" / "keys.json", "alice")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    add(file, "alice")
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        add(file, "bob")
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys.json"
    add(file, "alice")
    file.chmod(mode)
    with pytest.raises(ConfigError, match="others may write"):
        read_keys(file)


def test_a_pipe_is_no_file_of_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        read_keys(tmp_path / "pipe")


def test_keys_of_the_environment(tmp_path: Path) -> None:
    key, entry = new_key("alice", "read", None)
    text = msgspec.json.encode(KeyBook((entry,))).decode()
    keys = keys_from(None, {VARIABLE: text})
    assert keys is not None
    assert keys().find(key)
    assert keys_from(None, {}) is None
    assert keys_from(None, {VARIABLE: ""}) is None
    with pytest.raises(ConfigError, match="in one place"):
        keys_from(tmp_path / "keys.json", {VARIABLE: text})
    with pytest.raises(ConfigError, match=f"{VARIABLE} holds no keys of ours"):
        keys_from(None, {VARIABLE: "[" * 10_000})


def test_a_file_that_is_not_there_is_no_open_door(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        keys_from(tmp_path / "keys.json", {})
