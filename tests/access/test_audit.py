"""The audit log: what it has, what it has not, and what strangers cannot do to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.access.test_rate import Clock
from vllm_mega.access.audit import REFUSALS_PER_MINUTE, Audit
from vllm_mega.errors import ConfigError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_refused_try_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = Audit(file)
    log.refused("alice", 403)
    log.refused("", 401, "10.0.0.7")
    log.close()
    first, second = lines(file)
    assert abs(first.pop("at") - second.pop("at")) < 60
    assert (first, second) == (
        {"who": "alice", "status": 403},
        {"who": "", "status": 401, "client": "10.0.0.7"},
    )
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_change_has_a_line_however_many_there_are(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = Audit(file, Clock())
    for n in range(REFUSALS_PER_MINUTE + 50):
        log.changed("alice", 200, "forget", "sea", (f"m{n}",), "10.0.0.7")
    log.close()
    found = lines(file)
    assert len(found) == REFUSALS_PER_MINUTE + 50
    del found[-1]["at"]
    assert found[-1] == {
        "who": "alice", "status": 200, "client": "10.0.0.7", "did": "forget", "namespace": "sea",
        "ids": ["m649"],
    }  # fmt: skip


def test_what_is_there_stays_and_a_name_cannot_make_a_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    for name in ("alice", 'x"}\n{"who":"root"'):
        log = Audit(file)
        log.refused(name, 403)
        log.close()
    assert [line["who"] for line in lines(file)] == ["alice", 'x"}\n{"who":"root"']


def test_tries_are_counted_when_they_are_too_many(tmp_path: Path) -> None:
    file, clock = tmp_path / "audit.jsonl", Clock()
    log = Audit(file, clock)
    for _ in range(REFUSALS_PER_MINUTE + 50):
        log.refused("", 401)
    assert len(lines(file)) == REFUSALS_PER_MINUTE
    clock.now += 60
    log.refused("alice", 403)
    assert lines(file)[-1]["unwritten"] == 50
    log.refused("", 401)
    assert "unwritten" not in lines(file)[-1]
    log.close()


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: No such file"):
        Audit(tmp_path / "nowhere" / "audit.jsonl")
