"""Ids and tags of LangGraph's items: others for others, and all that stands in them comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mega.clients.places import id_of, place_of, tags_of
from vllm_mega.config import check_name, check_tags
from vllm_mega.errors import RequestError

LABEL = st.text(st.characters(codec="utf-8", exclude_characters=".\0"), min_size=1, max_size=3)
KEY = st.text(st.characters(codec="utf-8"), max_size=3)


@given(st.lists(LABEL, max_size=2).map(tuple), KEY)
def test_an_id_says_where_an_item_stands(path: tuple[str, ...], key: str) -> None:
    found = id_of(path, key)
    assert check_name(found, "id") == found
    assert place_of(found) == (path, key)


def test_ids_are_readable() -> None:
    assert id_of(("users", "alice"), "tea") == "lg.users.alice.tea"
    assert id_of(("users",), "alice.tea") == "lg.users.alice_2Etea"
    assert id_of((), "größe") == "lg.gr_C3_B6_C3_9Fe"


@pytest.mark.parametrize(
    "other", ["ferry", "lg", "lgx.tea", "lg.a_2e", "lg.a_", "lg.a_41", "lg._FF", "lg.a b"]
)
def test_other_memories_are_no_items(other: str) -> None:
    assert place_of(other) is None


def test_an_id_that_is_too_long_is_refused() -> None:
    key = "k" * 119
    check_name(id_of(("users",), key), "id")
    with pytest.raises(RequestError, match="of 129 characters, expected at most 128"):
        id_of(("users",), key + "k")


def test_all_below_a_path_have_its_tags_and_nothing_else_has() -> None:
    assert tags_of(("users", "alice")) == ("lg", "lg:0:users", "lg:1:alice")
    below, beside = set(tags_of(("users", "alice", "notes"))), set(tags_of(("alice", "users")))
    assert set(tags_of(("users", "alice"))) <= below
    assert not set(tags_of(("users",))) <= beside


def test_the_longest_path_has_tags_that_a_memory_can_have() -> None:
    check_tags(tags_of(("a" * 58,) * 31))


@pytest.mark.parametrize("path", [("a" * 60,), ("a ",), ("a",) * 32])
def test_labels_that_can_be_no_tags_are_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="expected at most"):
        tags_of(path)
