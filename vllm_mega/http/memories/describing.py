"""What OpenAPI says of the routes about memories, made of the structs that they are asked and tell. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_mega.http.memories.operations import Operation

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": "integer"},
            },
        }
    },
}  # fmt: skip
_REFUSALS = {
    "400": "It cannot be right; `param` names what of it.",
    "401": "The server needs a key.",
    "403": "The key is not for this namespace, has not this role, or the namespace has all that it may have.",
    "404": "There is no such memory in this namespace, or never was.",
    "412": "Somebody has changed the memory since it was read.",
    "413": "The body is too large.",
    "422": "Another request had this Idempotency-Key within a day.",
    "429": "The namespace changes too fast: come back after Retry-After seconds.",
    "503": "The server has as much to do as it takes on: ask again.",
}
_IF_MATCH = {
    "name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "an ETag: do it only if nobody has changed the memory since it was read",
}  # fmt: skip

_ONCE = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "sent again within a day, the request is done once; `Idempotency-Replayed: true` tells so",
}  # fmt: skip


def described(operation: Operation) -> dict[str, Any]:
    """All of an operation but its name and what it is about."""
    about: dict[str, Any] = {"parameters": _parameters(operation), "responses": _responses(operation)}
    if operation.body is not None:
        content = {"schema": plain_schema(operation.body), "example": operation.example}
        about["requestBody"] = {"required": True, "content": {"application/json": content}}
    return about


def plain_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type; what it consists of stands where it is used."""
    schema = msgspec.json.schema(kind)
    plain: dict[str, Any] = _resolved(schema, schema.get("$defs", {}))
    plain.pop("$defs", None)
    return plain


def _either(kinds: tuple[type[Any], ...]) -> dict[str, Any]:
    schemas = [plain_schema(kind) for kind in kinds]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _resolved(part: Any, defs: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_resolved(one, defs) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _resolved(defs[part["$ref"].rpartition("/")[2]], defs)
    return {name: _resolved(one, defs) for name, one in part.items() if name != "$defs"}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    schema = plain_schema(operation.query)
    required = schema.get("required", [])
    in_query = [
        {"name": name, "in": "query", "required": name in required, "schema": one,
         "description": one.get("description", "")}
        for name, one in schema["properties"].items()
    ]  # fmt: skip
    headers = [*([_IF_MATCH] if operation.conditional else []), *([_ONCE] if operation.again else [])]
    return [*(in_path if "{id" in operation.path else []), *in_query, *headers]


def _responses(operation: Operation) -> dict[str, Any]:
    told = {
        "description": "Done.",
        "content": {"application/json": {"schema": _either(operation.tells)}},
    }
    refused = {
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _REFUSALS.items()
        if _can_refuse(operation, status)
    }
    return {str(operation.status): told, **refused}


def _can_refuse(operation: Operation, status: str) -> bool:
    return {
        "404": "{id" in operation.path,
        "412": operation.conditional,
        "413": operation.body is not None,
        "422": operation.again is not None,
        "429": operation.role == "write",
    }.get(status, True)
