from __future__ import annotations

import hashlib

import msgspec
import pytest

from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.identity import encode_content, memory_id, text_digest
from vllm_mega.bank.layout import QA, Content, Manifest, MemoryEntry, NewMemory

ENTRY = MemoryEntry("a", "default", 1, "", (), "0" * 64, "1" * 64, 10, 2, "2026-01-01T00:00:00+00:00")
TRAVERSAL = ["..", ".", "../x", "a/b", "/etc", "a\\b", "-a", ".hidden", "", "a\0b", "a\n", "é", "x" * 129]


def test_an_id_is_kept_and_a_missing_one_comes_from_the_text() -> None:
    assert memory_id(NewMemory("Snow fell.", id="winter")) == "winter"
    made = memory_id(NewMemory("Snow fell."))
    assert made == "m-" + hashlib.sha256(b"Snow fell.").hexdigest()[:12]
    assert made == memory_id(NewMemory("Snow fell.", title="Winter", tags=("cold",)))
    assert made != memory_id(NewMemory("Snow fell!"))


def test_the_digest_is_that_of_the_file_and_sees_all_that_trains() -> None:
    memory = NewMemory("Snow fell.", id="winter")
    assert text_digest(memory) == hashlib.sha256(encode_content(memory)).hexdigest()
    assert encode_content(memory) == b'{"text":"Snow fell.","title":"","paraphrases":[],"qa":[]}'
    qa = (QA("What fell?", "Snow."),)
    changes = ({"text": "Snow fell!"}, {"title": "W"}, {"paraphrases": ("It snowed.",)}, {"qa": qa})
    found = {text_digest(msgspec.structs.replace(memory, **change)) for change in changes}
    assert len(found - {text_digest(memory)}) == len(changes)


def test_every_other_field_trains_nothing() -> None:
    """A field that comes new to a memory trains no bank again, unless it is put into `Content` as well."""
    memory = NewMemory("Snow fell.", id="winter")
    others = {"id": "w", "namespace": "n", "tags": ("cold",), "links": ("summer",)}
    assert {*others, *Content.__struct_fields__} == {*NewMemory.__struct_fields__}
    for name, value in others.items():
        assert encode_content(msgspec.structs.replace(memory, **{name: value})) == encode_content(memory)


def test_a_manifest_names_links_and_recipes_where_there_are_any() -> None:
    assert b"links" not in msgspec.json.encode(ENTRY)
    assert b"recipe" not in msgspec.json.encode(ENTRY)
    assert msgspec.structs.replace(ENTRY, links=("b", "not-there-yet")).links == ("b", "not-there-yet")
    assert msgspec.structs.replace(ENTRY, recipe="2" * 64).recipe == "2" * 64


TAGS = [("",), (" red",), ("red", "red"), ("x" * 65,), tuple(f"t{n}" for n in range(33))]


@pytest.mark.parametrize("tags", TAGS, ids=["empty", "space", "twice", "long", "many"])
def test_bad_tags(tags: tuple[str, ...]) -> None:
    for make in (lambda: msgspec.structs.replace(ENTRY, tags=tags), lambda: NewMemory("text", tags=tags)):
        with pytest.raises(ValueError, match="tags"):
            make()
    good = ("x" * 64, "two words", "\u732b", *(f"t{n}" for n in range(29)))
    assert NewMemory("text", tags=good).tags == good


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


BAD = [{"version": 0}, {"adapter": "abc"}, {"text_digest": "A" * 64}, {"recipe": "5"}]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_an_entry_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"version|digest"):
        msgspec.structs.replace(ENTRY, **change)


def test_a_manifest_lists_a_memory_once() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        Manifest(1, 1, BASE, EMBEDDER, "0" * 64, (ENTRY, ENTRY))
