"""From what clients send to memories. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vllm_mega.bank.catalog.records import Source
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import RequestError
from vllm_mega.http.memories.asked import Change, Item, Message, Remember

_SAID = ("text", "messages")
_SAME = ("id", "title", "tags", "links", "paraphrases", "qa", "expires_at")


def items_of(asked: Remember) -> Sequence[Item]:
    """The one memory of a body, or all of them.

    Raises:
        RequestError: it has both.
    """
    if asked.memories is None:
        return [asked]
    blank = Item()
    if both := [name for name in Item.__struct_fields__ if getattr(asked, name) != getattr(blank, name)]:
        raise RequestError(f"the body has `memories`, and {both[0]}: put that into one of them", both[0])
    return asked.memories


def memory_of(item: Item, namespace: str, place: str = "") -> NewMemory:
    """The memory that a client describes.

    Args:
        item: as it was sent.
        namespace: whose it will be.
        place: of the item in the body, with a dot behind it.

    Raises:
        RequestError: what can be no memory; `param` names its place.
    """
    given: dict[str, Any] = {name: getattr(item, name) for name in _SAME}
    try:
        return NewMemory(_text(item, place), namespace=namespace, **given)
    except ValueError as error:
        raise RequestError(f"{place.removesuffix('.') or 'the memory'}: {error}", place + "text") from error


def size_of(item: Item | Change) -> int:
    """Bytes (UTF-8) of all texts of a memory, or of a change."""
    qa = [part for one in item.qa or () for part in (one.question, one.answer)]
    messages = conversation_text(item.messages or ()) if isinstance(item, Item) else ""
    texts = (item.text or "", messages, item.title or "", *(item.paraphrases or ()), *qa)
    return sum(len(text.encode()) for text in texts)


def sources_of(items: Sequence[Item]) -> list[Source | None]:
    """Where each came from, as far as it is told."""
    return [item.source for item in items]


def _text(item: Item, place: str) -> str:
    given = [name for name in _SAID if getattr(item, name) is not None]
    if len(given) != 1:
        found = "both" if given else "neither"
        raise RequestError(f"expected `text` or `messages`, found {found}", f"{place}text")
    return item.text if item.text is not None else conversation_text(item.messages or ())


def conversation_text(messages: Sequence[Message]) -> str:
    """A line for each message: "User: ...". Empty: there is none."""
    return "\n".join(f"{message.role.capitalize()}: {_content(message)}" for message in messages)


def _content(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content)


def decode_body(body: bytes, kind: type[Any]) -> Any:
    """A body as a struct of this type.

    Raises:
        RequestError: it is none; `param` names the place.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise refusal_of(error) from error


def decode_query(pairs: Sequence[tuple[str, str]], kind: type[Any]) -> Any:
    """The parameters behind the question mark as a struct of this type.

    Raises:
        RequestError: one that is not known, one twice, or one that is no value; `param` names it.
    """
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{twice} is given more than once", twice)
    if zero := next((name for name, value in pairs if "\0" in value), None):
        raise RequestError(f"{zero} has a NUL character: take it out", zero)
    try:
        return msgspec.convert(given, kind, strict=False)
    except ValueError as error:
        raise refusal_of(error) from error


def refusal_of(error: Exception) -> RequestError:
    """What a client hears of an error of msgspec's: "... - at `$.memories[0].text`" names the place."""
    reason, _, place = str(error).partition(" - at `$")
    name = place.rstrip("`").lstrip(".") or _quoted(reason) or "body"
    return RequestError(f"{name}: {reason}" if place else reason, name)


def _quoted(reason: str) -> str | None:
    """The field that a reason is about: "Object contains unknown field `x`"."""
    parts = reason.split("`")
    return parts[1] if "field" in reason and len(parts) == 3 else None
