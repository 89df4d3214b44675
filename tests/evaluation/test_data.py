"""What an evaluation reads, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_mega.errors import ConfigError
from vllm_mega.evaluation.data import Question, add_questions, read_items, read_prompts

LINE = (
    '{"id": "bell", "text": "One bell rang.", "title": "The bell", '
    '"qa": [{"question": "?", "answer": "one"}]}'
)


def written(folder: Path, text: str) -> Path:
    path = folder / "file.jsonl"
    path.write_text(text)
    return path


def test_questions_are_not_trained_on(tmp_path: Path) -> None:
    (item,) = read_items(written(tmp_path, LINE))
    assert item.qa == (Question("?", "one"),)
    assert item.memory.qa == ()
    assert (item.memory.text, item.memory.id, item.memory.title) == ("One bell rang.", "bell", "The bell")


def test_a_memory_without_questions_is_asked_for_by_name(tmp_path: Path) -> None:
    (item,) = read_items(written(tmp_path, '{"id": "bell", "text": "One bell rang.", "subject": "A bell"}'))
    assert item.questions == ("What do you know about A bell?",)


def test_questions_of_another_file(tmp_path: Path) -> None:
    items = read_items(written(tmp_path, LINE))
    more = '{"memory_id": "bell", "question": "How many?", "answer": "one", "aliases": ["1"]}\n'
    other = '{"memory_id": "gong", "question": "How many?", "answer": "two"}\n'
    (item,) = add_questions(items, written(tmp_path, more + other))
    assert item.qa == (Question("?", "one"), Question("How many?", "one", ("1",)))
    with pytest.raises(ConfigError, match="no question is about"):
        add_questions(items, written(tmp_path, other))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LINE}\n{LINE}", "two memories have the id 'bell'"),
        (LINE.replace("answer", "anwser"), "line 1.*anwser"),
        ("\n", "is empty"),
        ("{", "line 1"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_items(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.jsonl"):
        read_prompts(tmp_path / "none.jsonl")
