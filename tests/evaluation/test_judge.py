"""A judge of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_mega.errors import ConfigError
from vllm_mega.evaluation.judge import judged, load_judge


def test_a_function_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_judge.py").write_text("def lenient(question, golds, reply):\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert judged(load_judge("my_own_judge:lenient"), "?", ("a",), "b") is True


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("json", "must be MODULE:FUNCTION"),
        (":loads", "must be MODULE:FUNCTION"),
        ("no_such_module:judge", "'no_such_module' cannot be imported"),
        ("..json:loads", "cannot be imported"),
        ("json:no_such", "'json' has no 'no_such'"),
        ("json:__doc__", "is no function but a str"),
        ("operator:contains", "must take the question, the gold answers and the reply"),
    ],
)
def test_what_is_no_judge_is_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_judge(spec)


def test_a_module_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_judge.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"'broken_judge' cannot be imported: .*division by zero"):
        load_judge("broken_judge:judge")
