"""What a request must be before anything of it is used: readable, not too deep, of the usual shape. Pure.

Python reads JSON that is none (UTF-16, half a surrogate pair), and hands on texts that no tokenizer and no
response can encode. The first to notice would be work that other requests share.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vllm_mega.errors import RequestError

TEXT_PARTS = ("text", "input_text")
DEEPEST = 100
"""Objects and lists inside each other. Templates, validators and encoders call themselves for each."""

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = bytes.maketrans(b'[{]}"', b"\1\1\xff\xff\0")
"""How much deeper the text is behind a byte: one more, one less; no deeper, where a string begins or ends."""
_UNMARKED = bytes(set(range(256)) - set(b'[]{}"'))

Path = tuple[Any, str]
"""The path of what is around it, and one step more: as text, a path would grow with every step."""


def check_body(body: bytes) -> None:
    """Refuse JSON that cannot be used; what is no JSON at all is left to who parses it.

    Raises:
        RequestError: it is not UTF-8, too deep, or has a text that is none; `param` names the place.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        reason = f"the body must be UTF-8, but byte {error.start} is not: {error.reason}"
        raise RequestError(reason, "body") from error
    if b"\0" in body:
        raise RequestError("the body must be UTF-8, but it has zero bytes, as UTF-16 has", "body")
    if depth(body) > DEEPEST:
        raise RequestError(f"the body has objects or lists more than {DEEPEST} inside each other", "body")
    if _ESCAPED_HALF.search(body):
        try:
            value = json.loads(body)
        except ValueError:
            return
        check_characters(value)


def depth(body: bytes) -> int:
    """How many objects and lists of the JSON text `body` are open at once, at most."""
    if body.count(b"[") + body.count(b"{") <= DEEPEST:
        return 0  # of no interest
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    steps = np.frombuffer(unescaped.translate(_STEPS, _UNMARKED), np.int8)
    outside = (steps == 0).cumsum(dtype=np.uint8) & 1 ^ 1  # of strings: the last one need not end
    return int((steps * outside.view(np.int8)).cumsum().max(initial=0))


def check_characters(value: object, name: str = "") -> None:
    """Refuse half surrogate pairs, in texts and in names of fields, however deep in `value`.

    Raises:
        RequestError: there is one; `param` is its place, or the place of the object with that field.
    """
    waiting: deque[tuple[Path, object]] = deque([(((), name), value)])
    while waiting:
        path, part = waiting.popleft()
        if isinstance(part, str):
            _check_text(part, path, "")
        elif isinstance(part, Mapping):
            for key, inner in part.items():
                _check_text(str(key), path, "a name of a field in ")
                waiting.append(((path, f".{key}"), inner))
        elif isinstance(part, list | tuple):
            waiting.extend(((path, f"[{n}]"), inner) for n, inner in enumerate(part))


def _check_text(text: str, path: Path, what: str) -> None:
    if half := _HALF.search(text):
        place = _shown(path) or "body"
        raise RequestError(
            f"{what}{place} has half of a surrogate pair, {half[0]!a}, at character {half.start()}: "
            "that is no character. Send both halves, or leave it out",
            place,
        )


def _shown(path: Any) -> str:
    steps = []
    while path:
        path, step = path
        steps.append(step)
    return "".join(reversed(steps)).lstrip(".")


def usual_messages(messages: Iterable[object]) -> list[dict[str, Any]]:
    """Messages as templates take them; a content that pydantic would read later is read now.

    Raises:
        RequestError: a message that is none; `param` names it.
    """
    return [_usual(message, f"messages[{n}]") for n, message in enumerate(messages)]


def _usual(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{place} must be an object with a `role` and a `content`", place)
    content = message.get("content")
    usual = dict(message)
    if content is not None and not isinstance(content, str):
        usual["content"] = _parts(content, f"{place}.content")
    check_characters(usual, place)
    return usual


def _parts(content: Any, place: str) -> list[Any]:
    try:
        if isinstance(content, Mapping):
            raise TypeError("an object")
        parts = list(content)
    except (TypeError, ValueError) as error:  # pydantic's own error is a ValueError
        raise RequestError(f"{place} must be a text or a list of parts with `type`", place) from error
    for n, part in enumerate(parts):
        if is_text(part) and not isinstance(part_text(part), str):
            raise RequestError(f"{place}[{n}].text must be a text", f"{place}[{n}].text")
        if not isinstance(part, str | Mapping):
            raise RequestError(f"{place}[{n}] must be a part: an object with `type`", f"{place}[{n}]")
    return parts


def is_text(part: object) -> bool:
    """Whether a part of a content is text."""
    return isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") in TEXT_PARTS)


def part_text(part: Any) -> Any:
    """The text of a part that is text: a string, in a message of the usual shape."""
    return part if isinstance(part, str) else part.get("text")
