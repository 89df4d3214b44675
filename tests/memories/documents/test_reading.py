from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import pytest

from tests.memories.documents.made import HANDBOOK, docx, pdf, words
from vllm_mega.errors import ConfigError, DocumentError
from vllm_mega.memories.documents import converting, reading
from vllm_mega.memories.documents.division import Size
from vllm_mega.memories.documents.reading import ReadDocument, ReadLines, read_files
from vllm_mega.memories.documents.sections import document_parts

PARTS = [
    ("Handbook", "The lamp house of Odrin is run by three keepers."),
    ("Handbook > Doors", "The blue door opens on Mondays. Nobody knows who painted it."),
    ("Handbook > Doors > Codes", "- The cellar has the code 4711.\n- The attic has the code 1902."),
    ("Handbook > Bells", "The bell was cast from melted spoons."),
]
PAGE = """\
<!DOCTYPE html><html><head><meta charset="{}"><title>Lamps of Odrin</title>
<style>p {{ color: red }}</style></head>
<body><nav><a href="/">Home</a></nav><main><h2>Doors</h2><p>The <b>blue</b> door of <a href="x">Frau Grün</a>
opens on Mondays.<img src="data:image/png;base64,AAAA"></p><ul><li>snake_case * 2</li><li>two</li></ul></main>
<p>Lamps since 1911</p>
<script>alert("no")</script></body></html>"""


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(path: Path) -> ReadDocument:
    (found,) = read_files([path])
    assert isinstance(found, ReadDocument)
    return found


def parts(path: Path) -> list[tuple[str, str]]:
    found = read(path)
    return [(part.title, part.text) for part in document_parts(found.document, found.text, words, Size())]


def refused(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        read_files([path])
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_markdown_however_it_was_saved(tmp_path: Path, encoding: str, newline: str) -> None:
    path = written(tmp_path, "watch.MD", HANDBOOK.replace("\n", newline).encode(encoding))
    assert parts(path) == PARTS
    document = read(path).document
    assert document.source == str(path)
    assert document.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_text(tmp_path: Path) -> None:
    assert parts(written(tmp_path, "bells.txt", "# one\n\ntwo")) == [("bells", "# one\n\ntwo")]


@pytest.mark.parametrize(
    ("encoding", "declared"), [("utf-8", "utf-8"), ("latin-1", "latin-1"), ("utf-16", "utf-8")]
)
def test_html(tmp_path: Path, encoding: str, declared: str) -> None:
    path = written(tmp_path, "lamps.html", PAGE.format(declared).encode(encoding))
    text = "The **blue** door of Frau Grün opens on Mondays.\n\n- snake_case * 2\n- two"
    assert parts(path) == [("Doors", text)]


def test_the_title_of_a_page_is_that_of_its_memories(tmp_path: Path) -> None:
    path = written(tmp_path, "p.htm", "<title>Lamps\n of Odrin</title><p>One.</p><h3>Bells</h3><p>Two.</p>")
    assert parts(path) == [("Lamps of Odrin", "One."), ("Lamps of Odrin > Bells", "Two.")]


def test_html_that_declares_nothing_and_is_not_utf_8(tmp_path: Path) -> None:
    path = written(tmp_path, "lamps.html", "<p>Frau Grün</p>".encode("latin-1"))
    assert "bytes that are not UTF-8: save it as UTF-8, or declare its encoding" in refused(path)


def test_docx(tmp_path: Path) -> None:
    headings = [("Title", "Handbook"), ("heading 1", "Doors"), ("heading 2", "Codes"), ("heading 1", "Bells")]
    texts = ["The lamp.", "The blue & red door.", "4711", "The bell."]
    paragraphs = [one for pair in zip(headings, [("", text) for text in texts], strict=True) for one in pair]
    assert parts(written(tmp_path, "watch.docx", docx(paragraphs))) == [
        ("Handbook", "The lamp."),
        ("Handbook > Doors", "The blue & red door."),
        ("Handbook > Doors > Codes", "4711"),
        ("Handbook > Bells", "The bell."),
    ]


def test_pdf(tmp_path: Path) -> None:
    pages = [
        ["Doors", "The blue door of the lamp house in Odrin opens on Mondays, and", "nobody knows."],
        ["Bells", "Two."],
    ]
    path = written(tmp_path, "watch.pdf", pdf(pages, [("Doors", 0), ("Bells", 1)]))
    assert parts(path) == [
        ("watch > Doors", "The blue door of the lamp house in Odrin opens on Mondays, and nobody knows."),
        ("watch > Bells", "Two."),
    ]


def test_a_pdf_without_text_may_be_scanned(tmp_path: Path) -> None:
    assert "scanned? Recognise the text first (OCR)" in refused(written(tmp_path, "scan.pdf", pdf([[], []])))


def test_an_encrypted_pdf(tmp_path: Path) -> None:
    path = written(tmp_path, "secret.pdf", pdf([["a"]], encrypted=True))
    assert "encrypted: take its password off" in refused(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pdf", b"no pdf", "no whole PDF"),
        ("a.docx", b"PK\x03\x04 cut off", "no whole document of Word"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "has a password"),
        ("a.odt", b"x", ".docx, .pdf, .jsonl, found .odt"),
        ("README", b"x", "found no suffix"),
        ("a.txt", pdf([["a"]]), "is a PDF by its content"),
        ("a.md", docx([]), "is a ZIP archive, such as DOCX"),
        ("a.txt", b"one\ntwo \x00\x00\x01 three", "line 2: a NUL character"),
        ("a.txt", b"one\nFrau Gr\xfcn", "line 2: bytes that are not UTF-8"),
        ("a.txt", b"", "the file is empty"),
        ("a.md", b" \n\n", "the file is empty"),
        ("a.md", b"# One\n\n## Two\n", "headings alone"),
        ("a.md", b"<!-- x -->", "it has no text"),
        ("a.html", b"<nav>x</nav>", "it has no text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_as_it_is(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    assert message in refused(written(tmp_path, name, data))


def test_what_is_no_file(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder.md", tmp_path / "pipe.md"
    folder.mkdir()
    os.mkfifo(pipe)
    assert "is a folder: give its files" in refused(folder)
    assert "a pipe or a device, no regular file" in refused(pipe)
    assert "No such file" in refused(tmp_path / "none.md")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "no regular file" in refused(tmp_path / "pipe.jsonl")


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_TEXT", 10)
    assert "11 bytes, and at most 10 are read" in refused(written(tmp_path, "a.md", "x" * 11))


def test_one_file_by_two_names_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path, "a.md", HANDBOOK)
    (tmp_path / "link.md").symlink_to(path)
    found = read_files([path, tmp_path / "link.md", tmp_path / "." / "a.md"])
    assert [one.document.source for one in found if isinstance(one, ReadDocument)] == [str(path)]


def test_a_source_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.md", HANDBOOK)
    (found,) = read_files([path], "handbook")
    assert isinstance(found, ReadDocument)
    assert found.document.source == "handbook"
    with pytest.raises(DocumentError, match="one name of a source is for one document, and 2"):
        read_files([path, path], "handbook")
    with pytest.raises(DocumentError, match="must not be empty"):
        read_files([path], " ")


def test_lines_are_memories(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "The lamp.", "id": "lamp"}\n')
    (found,) = read_files([path])
    assert isinstance(found, ReadLines)
    assert [memory.id for memory in found.memories] == ["lamp"]
    with pytest.raises(ConfigError, match="line 1"):
        read_files([written(tmp_path, "b.jsonl", '{"txt": 1}')])


@pytest.mark.parametrize("kind", ["html", "docx", "pdf"])
def test_a_missing_converter_names_the_extra(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        converting, "find_spec", lambda name: None if name in ("bs4", "pypdfium2") else there(name)
    )
    message = refused(written(tmp_path, f"a.{kind}", b"x"))
    assert "not installed here: pip install 'vllm-mega[documents]'" in message
    assert ("pypdfium2" if kind == "pdf" else "bs4") in message


def test_a_converter_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = written(tmp_path, "dies.py", "import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(converting, "_PROGRAM", program)
    assert "its converter broke off (signal 11)" in refused(written(tmp_path, "a.pdf", b"x"))
    monkeypatch.setattr(converting, "_PROGRAM", written(tmp_path, "slow.py", "import time; time.sleep(60)"))
    monkeypatch.setattr(converting, "SECONDS", 0.2)
    assert "not read within 0.2 s" in refused(tmp_path / "a.pdf")
