from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec
import pytest

from vllm_mega.bank.identity import encode_content, memory_id, text_digest
from vllm_mega.bank.layout import QA, Content, NewMemory

TRAVERSAL = ["..", ".", "../x", "a/b", "/etc", "a\\b", "-a", ".hidden", "", "a\0b", "a\n", "é", "x" * 129]


def test_an_id_is_kept_and_a_missing_one_comes_from_the_text() -> None:
    assert memory_id(NewMemory("Snow fell.", id="winter")) == "winter"
    made = memory_id(NewMemory("Snow fell."))
    assert made == "m-" + hashlib.sha256(b"Snow fell.").hexdigest()[:12]
    assert made == memory_id(NewMemory("Snow fell.", title="Winter", tags=("cold",)))
    assert made != memory_id(NewMemory("Snow fell!"))


def test_the_digest_sees_all_that_trains() -> None:
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
    others = {
        "id": "w",
        "namespace": "n",
        "tags": ("cold",),
        "links": ("summer",),
        "expires_at": datetime(2031, 5, 1, tzinfo=UTC),
    }
    assert {*others, *Content.__struct_fields__} == {*NewMemory.__struct_fields__}
    for name, value in others.items():
        assert encode_content(msgspec.structs.replace(memory, **{name: value})) == encode_content(memory)


TAGS = [("",), (" red",), ("red", "red"), ("x" * 65,), tuple(f"t{n}" for n in range(33))]


@pytest.mark.parametrize("tags", TAGS, ids=["empty", "space", "twice", "long", "many"])
def test_bad_tags(tags: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="tags"):
        NewMemory("text", tags=tags)
    good = ("x" * 64, "two words", "\u732b", *(f"t{n}" for n in range(29)))
    assert NewMemory("text", tags=good).tags == good


@pytest.mark.parametrize("links", [("../x",), ("b", "b"), ("a",), ("",)])
def test_bad_links(links: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="link"):
        NewMemory("text", id="a", links=links)


@pytest.mark.parametrize("name", TRAVERSAL)
def test_no_name_leads_out_of_the_bank(name: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        NewMemory("text", namespace=name)
    if name:
        with pytest.raises(ValueError, match="id"):
            NewMemory("text", id=name)
