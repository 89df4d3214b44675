"""LangGraph's long-term store whose items are memories of a server, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from math import inf
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from vllm_mega.clients.calling import Ask, Caller, Work
from vllm_mega.clients.places import Path, id_of, place_of, tags_of
from vllm_mega.errors import ConfigError, RequestError

TITLE = "title"
MOST_FOUND = 100
"""Memories that a server finds for a query."""
_PAGE = 1000
Place = tuple[Path, str]


class MegaStore(BaseStore):  # type: ignore[misc]  # LangGraph is untyped to mypy
    """A `BaseStore` over a server with memory: what is put is told to the model.

    An item's value is its text, and a title if it has one: `{"text": "...", "title": "..."}`. Other fields
    are refused, since the model would never hear of them. Operations of a batch are done in their order; puts
    that follow each other are one request, all of them or none.
    """

    supports_ttl = False

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        namespace: str | None = None,
        text_field: str = "text",
        train: bool = True,
        timeout: float = 60.0,
    ) -> None:
        """A store; nothing is asked yet.

        Args:
            url: of the server, such as `http://127.0.0.1:8000`.
            api_key: None: the server needs none.
            namespace: of the server, that has the memories; None: the first that the key is for.
            text_field: of a value, that is the memory's text.
            train: whether a trainer shall make adapters; else they stay texts.
            timeout: seconds that the server may be silent.

        Raises:
            ConfigError: the URL or the key can be none; the field of the text is that of the title.
        """
        if text_field == TITLE:
            raise ConfigError(f"text_field must be another than {TITLE!r}, which is the memory's title")
        self._caller = Caller(url, api_key, timeout)
        self._where = {} if namespace is None else {"namespace": namespace}
        self._text, self._train = text_field, train

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """What each operation gives, in order.

        Raises:
            RequestError: what cannot be kept or found so.
            InvalidNamespaceError: a namespace that LangGraph has none of.
            ForbiddenError, LimitError, BusyError, ServerError: the server refuses, or is not there.
        """
        return self._caller.do(self._all(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`."""
        return await self._caller.ado(self._all(list(ops)))

    def _all(self, ops: Sequence[Op]) -> Work[list[Result]]:
        for op in ops:
            validate_op_namespace(op)
        results: list[Result] = []
        for stored, some in groupby(ops, _stores):
            if stored:
                results += yield from self._put(list(some))
            else:
                for op in some:
                    results.append((yield from self._one(op)))
        return results

    def _one(self, op: Op) -> Work[Result]:
        match op:
            case GetOp():
                return _only((yield from self._items([(op.namespace, op.key)])))
            case PutOp():
                yield [Ask("DELETE", f"memories/{id_of(op.namespace, op.key)}", self._where)]
                return None
            case SearchOp():
                return (yield from self._search(op))
            case ListNamespacesOp():
                return (yield from self._namespaces(op))
        raise RequestError(f"expected GetOp, PutOp, SearchOp or ListNamespacesOp, found {type(op).__name__}")

    def _put(self, ops: Sequence[PutOp]) -> Work[list[Result]]:
        memories = {id_of(op.namespace, op.key): self._memory(op) for op in ops}  # the last of a key wins
        body = {"memories": list(memories.values()), "train": self._train, **self._where}
        yield [Ask("POST", "memories", body=body)]
        return [None] * len(ops)

    def _memory(self, op: PutOp) -> dict[str, Any]:
        if op.ttl is not None:
            raise RequestError(f"ttl is {op.ttl}, expected none: delete what shall not stay")
        if op.index not in (None, [self._text]):
            raise RequestError(
                f"index is {op.index}, expected None or {[self._text]}: every memory is found by its text"
            )
        value = op.value
        strange = [name for name in value if name not in (self._text, TITLE)]
        whole = self._text in value and all(isinstance(part, str) and part for part in value.values())
        if strange or not whole:
            raise RequestError(
                f"the value of {op.key!r:.200} has the fields {list(value)!r:.200}, expected {self._text!r} "
                f"and at most {TITLE!r}, both strings that are not empty: put all that shall be remembered "
                "into the text"
            )
        named = {"text": value[self._text], "title": value.get(TITLE, "")}
        return {"id": id_of(op.namespace, op.key), "tags": tags_of(op.namespace), **named}

    def _search(self, op: SearchOp) -> Work[list[SearchItem]]:
        if op.filter:
            raise RequestError(
                f"filter has {list(op.filter)!r:.200}, expected none: items are found by namespace and "
                "query, so put what tells them apart into the namespace"
            )
        _check_slice(op)
        if op.query:
            scores = yield from self._nearest(op, op.query)
        else:
            listed = yield from self._listed(op.namespace_prefix, op.offset + op.limit)
            scores = dict.fromkeys(listed)
        shown = list(scores)[op.offset : op.offset + op.limit]
        items = yield from self._items(shown)
        return [_scored(item, scores[place]) for place, item in zip(shown, items, strict=True) if item]

    def _nearest(self, op: SearchOp, query: str) -> Work[dict[Place, float | None]]:
        """The best first, with their scores."""
        most = op.offset + op.limit
        if most > MOST_FOUND:
            raise RequestError(f"offset and limit make {most}, expected at most {MOST_FOUND} with a query")
        body = {"query": query, "tags": tags_of(op.namespace_prefix), "limit": most, **self._where}
        (told,) = yield [Ask("POST", "search", body=body)]
        return {place: found["score"] for place, found in _places(told["data"])}

    def _namespaces(self, op: ListNamespacesOp) -> Work[list[Path]]:
        _check_slice(op)
        listed = yield from self._listed(())
        paths = {path for path, _ in listed if all(_fits(path, one) for one in op.match_conditions or ())}
        cut = sorted({path[: op.max_depth] for path in paths})
        return cut[op.offset : op.offset + op.limit]

    def _listed(self, prefix: Path, most: float = inf) -> Work[list[Place]]:
        """So many items below a path, or a few more, the latest added first."""
        found: list[Place] = []
        query: dict[str, str | int] = {"tag": tags_of(prefix)[-1], "limit": _PAGE, **self._where}
        while True:
            (page,) = yield [Ask("GET", "memories", query)]
            found += [place for place, _ in _places(page["data"]) if place[0][: len(prefix)] == prefix]
            if page["next_cursor"] is None or len(found) >= most:
                return found
            query = {**query, "cursor": page["next_cursor"]}

    def _items(self, places: Sequence[Place]) -> Work[list[Item | None]]:
        """What the store has there; None: nothing, or nothing any more."""
        if not places:
            return []
        told = yield [Ask("GET", f"memories/{id_of(*place)}", self._where) for place in places]
        return [
            None if one is None else self._item(place, one) for place, one in zip(places, told, strict=True)
        ]

    def _item(self, place: Place, memory: Mapping[str, Any]) -> Item:
        value = {self._text: memory["text"], **({TITLE: memory["title"]} if memory["title"] else {})}
        created, updated = (
            datetime.fromtimestamp(memory[name], UTC) for name in ("created_at", "updated_at")
        )
        return Item(namespace=place[0], key=place[1], value=value, created_at=created, updated_at=updated)


def _stores(op: Op) -> bool:
    return isinstance(op, PutOp) and op.value is not None


def _only(items: Sequence[Item | None]) -> Item | None:
    (item,) = items
    return item


def _places(memories: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Those that are items; a tag of ours may also have been given by hand."""
    return ((place, memory) for memory in memories if (place := place_of(memory["id"])) is not None)


def _scored(item: Item, score: float | None) -> SearchItem:
    return SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at, score)


def _check_slice(op: SearchOp | ListNamespacesOp) -> None:
    if op.limit < 1 or op.offset < 0:
        raise RequestError(f"limit is {op.limit} and offset {op.offset}, expected at least 1 and at least 0")


def _fits(path: Path, condition: MatchCondition) -> bool:
    """Whether a path begins, or ends, as a condition says; "*" is any label."""
    n = len(condition.path)
    part = path[:n] if condition.match_type == "prefix" else path[max(0, len(path) - n) :]
    return len(part) == n and all(
        wanted in ("*", label) for wanted, label in zip(condition.path, part, strict=True)
    )
