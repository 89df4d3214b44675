from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.memories.lines import read_memories


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_all_fields(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        '{"text": "The kettle sang."}',
        "",
        '{"text": "Geese count.", "id": "g", "title": "Geese", "namespace": "ben", "tags": ["a", "b"], '
        '"paraphrases": ["Counting geese."], "qa": [{"question": "Who counts?", "answer": "geese"}]}',
    )
    bare, full = read_memories(path)
    assert (bare.text, bare.id, bare.namespace) == ("The kettle sang.", "", "default")
    assert (full.id, full.title, full.namespace, full.tags) == ("g", "Geese", "ben", ("a", "b"))
    assert full.paraphrases == ("Counting geese.",)
    assert (full.qa[0].question, full.qa[0].answer) == ("Who counts?", "geese")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ('{"id": "a"}', "text"),
        ('{"text": "  "}', "empty"),
        ('{"text": "a", "colour": "red"}', "colour"),
        ('{"text": 3}', "str"),
        ('{"text": "a", "id": "../up"}', "id must be"),
        ('{"text": "a", "namespace": ""}', "namespace must be"),
        ('{"text": "a", "qa": [{"question": "b"}]}', "answer"),
        ('{"text": "a", "tags": "red"}', "tags"),
        ('"text"', "object"),
    ],
)
def test_a_bad_line_is_refused_with_number_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "in.jsonl", '{"text": "fine"}', "", line)
    with pytest.raises(ConfigError, match=rf"line 3: .*{reason}"):
        read_memories(path)


def test_broken_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ConfigError, match="line 1"):
        read_memories(tmp_path / "in.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "b", "id": "x"}',
        '{"text": "a", "id": "x", "title": "A"}',
        '{"text": "a", "id": "x", "links": ["y"]}',
    ],
)
def test_two_versions_of_one_memory_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2: .* line 1 already"):
        read_memories(write(tmp_path / "in.jsonl", '{"text": "a", "id": "x"}', line))


@pytest.mark.parametrize(
    "second",
    [
        '{"text": "a"}',
        ' { "text" : "\\u0061" } ',
        '{"text": "a", "title": null}',
        f'{{"text": "a", "id": "{memory_id(NewMemory(text="a"))}"}}',
    ],
)
def test_the_same_memory_twice_counts_once(tmp_path: Path, second: str) -> None:
    found = read_memories(write(tmp_path / "in.jsonl", '{"text": "a"}', '{"text": "b"}', second))
    assert [memory.text for memory in found] == ["a", "b"]


@pytest.mark.parametrize("field", ["id", "title", "namespace", "tags", "paraphrases", "qa", "links"])
def test_null_is_left_out(tmp_path: Path, field: str) -> None:
    line = f'{{"text": "a", "{field}": null}}'
    assert read_memories(write(tmp_path / "in.jsonl", line)) == [NewMemory(text="a")]


def test_an_array_is_as_good_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "in.json", "[", '  {"text": "a"},', "", '  {"text": "b"}', "]")
    assert [memory.text for memory in read_memories(path)] == ["a", "b"]
    path = write(tmp_path / "in.json", "[", '  {"text": "a"},', "", '  {"text": 4}', "]")
    with pytest.raises(ConfigError, match="line 4: Expected `str`"):
        read_memories(path)


def test_a_reason_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", *['{"text": "a", "colour": "red"}'] * 1000)
    with pytest.raises(ConfigError) as refusal:
        read_memories(path)
    assert "lines 1, 2, 3, 4, 5 and 995 more: Object contains unknown field `colour`" in str(refusal.value)
    assert "a memory has text, id, title" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_all_bad_lines_are_told_together(tmp_path: Path) -> None:
    lines = (
        '{"text": "a"}',
        "{",
        '{"text": "b", "links": ["x", "x"]}',
        '{"text": "a", "title": "A"}',
        '{"text": " "}',
    )
    with pytest.raises(ConfigError) as refusal:
        read_memories(write(tmp_path / "in.jsonl", *lines))
    name = memory_id(NewMemory(text="a"))
    assert str(refusal.value).splitlines() == [
        f"{tmp_path}/in.jsonl, line 2: Input data was truncated",
        "  line 3: links names x more than once",
        f"  line 4: the memory {name!r} of namespace 'default' is in line 1 already, "
        "with other content; give one of them another id, or drop it",
        "  line 5: text must not be empty",
    ]


def test_one_id_in_two_namespaces_is_fine(tmp_path: Path) -> None:
    lines = ('{"text": "a", "id": "x"}', '{"text": "a", "id": "x", "namespace": "ben"}')
    assert len(read_memories(write(tmp_path / "in.jsonl", *lines))) == 2


def test_a_line_can_say_when_it_expires(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", '{"text": "a", "expires_at": "2199-01-01T02:00:00+02:00"}')
    assert read_memories(path)[0].expires_at == datetime(2199, 1, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="Expected `datetime` with a timezone component"):
        read_memories(write(path, '{"text": "a", "expires_at": "2199-01-01T02:00:00"}'))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.jsonl: No such file"):
        read_memories(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="holds no memory"):
        read_memories(write(tmp_path / "in.jsonl", "", " "))
