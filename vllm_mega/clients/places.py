"""Where an item of LangGraph's stands among memories: path and key as id and tags, and back. Pure.

An id says path and key: `lg.users.alice.tea` is the key "tea" in ("users", "alice"). A tag for each label
says at which level it stands, so that every item below a path has all tags of the path, and nothing else has:
`lg`, `lg:0:users`, `lg:1:alice`.
"""

from __future__ import annotations

import re

from vllm_mega.config import MAX_TAG, MAX_TAGS
from vllm_mega.errors import RequestError

Path = tuple[str, ...]
"""A namespace of LangGraph's: labels from the root on."""
ROOT = "lg"
"""Tag of all items; ids begin with it."""
LONGEST = 128
"""Characters of an id."""
_OTHERS = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"_([0-9A-F]{2})")


def id_of(path: Path, key: str) -> str:
    """The id of a memory; others have others.

    What is no letter, digit or "-" of ASCII takes three characters for each byte.

    Raises:
        RequestError: it would be too long.
    """
    found = ".".join([ROOT, *map(_written, (*path, key))])
    if len(found) > LONGEST:
        raise RequestError(
            f"the namespace {path} and the key {key!r:.200} make an id of {len(found)} characters, expected "
            f"at most {LONGEST}: use shorter ones, of ASCII letters and digits"
        )
    return found


def place_of(memory_id: str) -> tuple[Path, str] | None:
    """Path and key of a memory; None: it is no item of LangGraph's."""
    root, *parts = memory_id.split(".")
    if root != ROOT or not parts:
        return None
    try:
        *path, key = map(_read, parts)
    except UnicodeDecodeError:
        return None
    place = tuple(path), key
    return place if id_of(*place) == memory_id else None


def tags_of(path: Path) -> tuple[str, ...]:
    """The tags that all items of a namespace have, and of those below it, and no others.

    Give them as `mega.tags` of a request, and only these memories take part.

    Raises:
        RequestError: labels that can be no tags.
    """
    if len(path) >= MAX_TAGS:
        raise RequestError(f"the namespace {path} has {len(path)} labels, expected at most {MAX_TAGS - 1}")
    tags = tuple(f"{ROOT}:{level}:{label}" for level, label in enumerate(path))
    for label, tag in zip(path, tags, strict=True):
        if len(tag) > MAX_TAG or tag != tag.strip():
            raise RequestError(
                f"the label {label!r:.200} of the namespace has {len(label)} characters, expected at most "
                f"{MAX_TAG - len(tag) + len(label)}, no white space at the end: use another"
            )
    return (ROOT, *tags)


def _written(part: str) -> str:
    return _OTHERS.sub(lambda other: b"_%02X" % ord(other[0]), part.encode()).decode()


def _read(part: str) -> str:
    return _ESCAPED.sub(lambda code: bytes.fromhex(code[1].decode()), part.encode()).decode()
