from __future__ import annotations

import hashlib

import msgspec
import pytest

from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.identity import encode_memory, memory_id, text_digest
from vllm_mega.bank.layout import Manifest, MemoryEntry, NewMemory

ENTRY = MemoryEntry("a", "default", 1, "", (), "0" * 64, "1" * 64, 10, 2, "2026-01-01T00:00:00+00:00")
TRAVERSAL = ["..", ".", "../x", "a/b", "/etc", "a\\b", "-a", ".hidden", "", "a\0b", "a\n", "é", "x" * 129]


def test_an_id_is_kept_and_a_missing_one_comes_from_the_text() -> None:
    assert memory_id(NewMemory("Snow fell.", id="winter")) == "winter"
    made = memory_id(NewMemory("Snow fell."))
    assert made == "m-" + hashlib.sha256(b"Snow fell.").hexdigest()[:12]
    assert made == memory_id(NewMemory("Snow fell.", title="Winter", tags=("cold",)))
    assert made != memory_id(NewMemory("Snow fell!"))


def test_the_digest_is_that_of_the_file_and_sees_every_field() -> None:
    memory = NewMemory("Snow fell.")
    data = encode_memory(memory)
    assert text_digest(memory) == hashlib.sha256(data).hexdigest()
    assert msgspec.json.decode(data, type=NewMemory).id == memory_id(memory)
    same = NewMemory("Snow fell.", id=memory_id(memory))
    assert text_digest(same) == text_digest(memory)
    for other in ({"paraphrases": ("It snowed.",)}, {"tags": ("cold",)}, {"title": "W"}, {"namespace": "n"}):
        assert text_digest(msgspec.structs.replace(memory, **other)) != text_digest(memory)


def test_links_are_no_content() -> None:
    """A memory whose links change is not trained again, and one without is the file it always was."""
    memory = NewMemory("Snow fell.", id="winter")
    linked = msgspec.structs.replace(memory, links=("summer",))
    assert encode_memory(linked) == encode_memory(memory)
    assert b"links" not in encode_memory(memory)
    assert b"links" not in msgspec.json.encode(ENTRY)
    assert msgspec.structs.replace(ENTRY, links=("b", "not-there-yet")).links == ("b", "not-there-yet")


@pytest.mark.parametrize("links", [("../x",), ("b", "b"), ("a",), ("",)])
def test_bad_links(links: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="link"):
        msgspec.structs.replace(ENTRY, links=links)
    with pytest.raises(ValueError, match="link"):
        NewMemory("text", id="a", links=links)


@pytest.mark.parametrize("name", TRAVERSAL)
def test_no_name_leads_out_of_the_bank(name: str) -> None:
    for where in ("namespace", "id"):
        with pytest.raises(ValueError, match=where):
            msgspec.structs.replace(ENTRY, **{where: name})
        with pytest.raises(msgspec.ValidationError, match=where):
            msgspec.convert({**msgspec.to_builtins(ENTRY), where: name}, MemoryEntry)
    with pytest.raises(ValueError, match="namespace"):
        NewMemory("text", namespace=name)
    if name:
        with pytest.raises(ValueError, match="id"):
            NewMemory("text", id=name)


@pytest.mark.parametrize("change", [{"version": 0}, {"adapter": "abc"}, {"text_digest": "A" * 64}], ids=str)
def test_an_entry_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"version|digest"):
        msgspec.structs.replace(ENTRY, **change)


def test_a_manifest_lists_a_memory_once() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        Manifest(1, 1, BASE, EMBEDDER, "0" * 64, (ENTRY, ENTRY))
