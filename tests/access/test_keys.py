"""Keys: random, kept as digests, found again."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest

from vllm_mega.access import keys
from vllm_mega.access.keys import KeyBook, KeyEntry, new_key
from vllm_mega.access.limits import Limits
from vllm_mega.access.principals import Principal
from vllm_mega.errors import ConfigError

DIGEST = "ab" * 32


def test_a_key_opens_what_it_is_for() -> None:
    key, entry = new_key("alice", "write", ["sea"])
    other, _ = new_key("bob", "read", None)
    book = KeyBook().with_key(entry)
    assert book.find(key) == Principal("alice", "write", ("sea",))
    assert book.find(other) is None
    assert book.without_key("alice").find(key) is None


@pytest.mark.parametrize("strange", ["", "mega-", "é", "\ud800", "x" * 100_000, "\0"])
def test_what_is_no_key_opens_nothing(strange: str) -> None:
    book = KeyBook().with_key(new_key("alice", "write", ["sea"])[1])
    assert book.find(strange) is None


def test_what_is_kept_is_no_key() -> None:
    key, entry = new_key("alice", "admin", None)
    assert entry.digest == hashlib.sha256(key.encode()).hexdigest()
    assert key.removeprefix("mega-") not in msgspec.json.encode(entry).decode()
    assert len(key) == len("mega-") + 43, "256 bits"
    assert new_key("alice", "admin", None)[0] != key


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key(f"k{n}", "read", None) for n in range(4)]
    book = KeyBook(tuple(entry for _, entry in made))
    compared = []

    def compare(one: Any, other: Any) -> bool:
        compared.append(one)
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys, "hmac", type("Counting", (), {"compare_digest": staticmethod(compare)}))
    for key in (made[0][0], made[3][0], "none"):
        compared.clear()
        book.find(key)
        assert len(compared) == 4


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "a b", "digest": DIGEST, "role": "read"}, "name of a key"),
        ({"name": "a", "digest": "abc", "role": "read"}, "64 hex digits"),
        ({"name": "a", "digest": DIGEST, "role": "root"}, "root"),
        ({"name": "a", "digest": DIGEST, "role": "read", "namespaces": []}, "for no namespace"),
        ({"name": "a", "digest": DIGEST, "role": "read", "namespaces": ["x", "x"]}, "more than once"),
        ({"name": "a", "digest": DIGEST, "role": "read", "namespaces": ["../x"]}, "a namespace"),
        ({"name": "a", "digest": DIGEST, "role": "admin", "namespaces": ["x"]}, "all namespaces"),
        ({"name": "a", "digest": DIGEST, "role": "read", "key": "mega-1"}, "unknown field"),
    ],
)
def test_an_entry_that_cannot_be_right_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(fields, KeyEntry)


def test_a_name_belongs_to_one_key() -> None:
    entry = new_key("alice", "read", None)[1]
    with pytest.raises(ConfigError, match="there is a key called 'alice'"):
        KeyBook((entry,)).with_key(new_key("alice", "admin", None)[1])
    with pytest.raises(ConfigError, match="more than one key called alice"):
        KeyBook((entry, entry))
    with pytest.raises(ConfigError, match="no key called 'bob'"):
        KeyBook((entry,)).without_key("bob")


def test_limits_are_those_of_the_namespace_or_of_the_others() -> None:
    book = KeyBook(limits={"sea": Limits(memories=3), "*": Limits(memories=7)})
    assert book.limits_of("sea").memories == 3
    assert book.limits_of("land").memories == 7
    assert KeyBook().limits_of("land") == Limits(None, 65536, None)
