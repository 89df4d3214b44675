"""JSON that others wrote: as many ways as there are to write it, and everything that may be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vllm_mega.bank.layout import NewMemory
from vllm_mega.batch.lines import read_jobs
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError, RequestError
from vllm_mega.evaluation.data import read_paragraphs
from vllm_mega.jsonl import JsonError, decode, decode_lines, read_lines, split_values
from vllm_mega.memories.lines import read_memories
from vllm_mega.models.chat_template import read_template
from vllm_mega.text_file import decode_text, read_text

VALUES = [{"text": "Grüße an 茜"}, {"text": "zwei 🐦"}]
LINES = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in VALUES)
SETTINGS = MegaSettings(bank="/nowhere")

WAYS = {
    "lines": LINES,
    "no end": LINES.rstrip(),
    "Windows": LINES.replace("\n", "\r\n"),
    "old Mac": LINES.replace("\n", "\r"),
    "empty lines": "\n \n" + LINES.replace("\n", "\n\n"),
    "array": json.dumps(VALUES, ensure_ascii=False),
    "array, indented": "\n" + json.dumps(VALUES, ensure_ascii=False, indent=2) + "\n",
    "array of lines": "[\n" + ",\n".join(LINES.split("\n")[:2]) + "\n]",
    "indented, one after another": "\n".join(json.dumps(v, ensure_ascii=False, indent=2) for v in VALUES),
    "escaped": "\n".join(json.dumps(value) for value in VALUES),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("way", WAYS)
def test_however_it_was_written_it_is_read(tmp_path: Path, way: str, encoding: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(WAYS[way].encode(encoding))
    assert [value for _, value in read_lines(path, dict[str, Any])] == VALUES
    assert [memory.text for memory in read_memories(path)] == [value["text"] for value in VALUES]
    prompts = WAYS[way].replace('"text"', '"prompt"').encode(encoding)
    jobs = read_jobs(decode_text(prompts), {"model": "m"}, SETTINGS)
    assert [job.prompt for job in jobs] == [value["text"] for value in VALUES]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_format_is_seen_whatever_the_encoding(encoding: str) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "b"}}
    for text in (json.dumps(line), json.dumps([line], indent=1)):
        (job,) = read_jobs(decode_text(text.encode(encoding)), {"model": "m"}, SETTINGS)
        assert job.id == "a"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_plain_texts_too(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "text").write_bytes("eins\r\n\r\nzwei\r\n".encode(encoding))
    assert read_paragraphs(tmp_path / "text") == ["eins", "zwei"]
    (tmp_path / "t.jinja").write_bytes("{{ messages }}".encode(encoding))
    assert read_template(str(tmp_path / "t.jinja")) == "{{ messages }}"


def test_lines_of_values_that_are_spread() -> None:
    assert [n for n, _ in split_values(WAYS["array, indented"])] == [3, 6]
    assert [n for n, _ in split_values(WAYS["indented, one after another"])] == [1, 4]
    assert [n for n, _ in split_values(WAYS["Windows"])] == [1, 2]


DEEP = "[" * 100_000
WRONG: dict[str, tuple[bytes, int, str]] = {
    "not UTF-8": (b'{"text": "a"}\n{"text": "caf\xe9"}', 2, "not UTF-8 .e9 22 7d"),
    "half a UTF-16": ("\ufeff{}\n{".encode("utf-16-le")[:-1], 2, "not UTF-16"),
    "cut off": (b'{"text": "a"}\n{"text"', 2, "truncated"),
    "deep arrays": (b'{"text": "a"}\n{"text": ' + DEEP.encode(), 2, "nested too deeply"),
    "deep objects": (b'{"text": "a"}\n' + b'{"a":' * 100_000, 2, "nested too deeply"),
    "deep, at once": (DEEP.encode(), 1, "nested too deeply"),
    "half a character": (b'{"text": "a"}\n{"text": "\\ud83d"}', 2, "half a character"),
    "the other half": (b'{"text": "a"}\n{"text": "\\ude00"}', 2, "half a character"),
    "half a name": (b'{"text": "a"}\n{"\\ud83d": 1}', 2, "half a character"),
    "array, cut off": (b'[\n{"text": "a"},\n{"text": "b"}', 3, "truncated"),
    "array, a comma too many": (b'[\n{"text": "a"},\n]', 3, "array"),
    "array, then more": (b'[{"text": "a"}]\n{"text": "b"}', 2, "array"),
    "array, half a character": (b'[\n{"text": "a"},\n{"text": "\\ud83d"}]', 3, "half a character"),
    "no JSON": (b'{"text": "a"}\ntext,id\n', 2, "malformed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_has_its_file_and_line(tmp_path: Path, case: str) -> None:
    data, line, reason = WRONG[case]
    path = tmp_path / "in.jsonl"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"in\.jsonl, line {line}: .*{reason}"):
        list(read_lines(path, dict[str, Any]))
    with pytest.raises(ConfigError, match=rf"in\.jsonl, line {line}: .*{reason}"):
        read_memories(path)
    with pytest.raises((ConfigError, RequestError), match=rf"line {line}: "):
        read_jobs(read_text(path).replace('"text"', '"prompt"'), {"model": "m"}, SETTINGS)


def test_other_lines_are_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\\ud83d"}\n{"text": "c"}')
    kinds = [type(value).__name__ for _, value in decode_lines(path, NewMemory)]
    assert kinds == ["NewMemory", "Reason", "NewMemory"]


@pytest.mark.parametrize("kind", [object, dict[str, Any], dict[str, msgspec.Raw], msgspec.Raw, NewMemory])
@pytest.mark.parametrize(
    "data", [DEEP, '{"a":' * 100_000, '{"a": "\udc00"}', b'{"\xff": 1}', "", "{"], ids=repr
)
def test_decoding_fails_in_one_way(data: str | bytes, kind: Any) -> None:
    if data == b'{"\xff": 1}' and kind is msgspec.Raw:
        return  # not looked into
    with pytest.raises(JsonError) as caught:
        decode(data, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["text", "title", "tags", "paraphrases", "qa"])
def test_half_a_character_from_the_command_line(field: str) -> None:
    half: Any = {"tags": ["\ud83d"], "paraphrases": ["\ud83d"], "qa": [{"question": "\ud83d", "answer": "a"}]}
    fields = {"text": "a", field: half.get(field, "\ud83d")}
    with pytest.raises(msgspec.ValidationError, match="half a character"):
        msgspec.convert(fields, NewMemory)
