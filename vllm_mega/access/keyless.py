"""Who may change memories where nobody needs a key: programs of this machine, and no web page. Pure.

A browser on this machine reaches 127.0.0.1 for every page that it shows. A page says where it comes from
(Origin), and one that has its own name lead to 127.0.0.1 says that name (Host).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from vllm_mega.access.principals import Principal
from vllm_mega.errors import ForbiddenError

LOCAL = Principal("local", "write", None)
"""A program of this machine; never an admin."""
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def local(client: str | None, headers: Mapping[str, str]) -> Principal:
    """Who asks a server without keys.

    Args:
        client: address of the other end; None: it is not known.
        headers: of the request, by lower-case names.

    Raises:
        ForbiddenError: it does not come from this machine, or not by itself.
    """
    origin = headers.get("origin")
    if client is None or not _is_loopback(client):
        raise _refusal("come from this machine")
    if any(name in headers for name in _FORWARDED):
        raise _refusal("come straight, and not through a proxy")
    if not _is_local_host(f"//{headers.get('host', '')}"):
        raise _refusal("ask for localhost, by that name or its address")
    if origin is not None and not _is_local_host(origin):
        raise _refusal("come from a program, and not from a page of another site")
    return LOCAL


def _refusal(must: str) -> ForbiddenError:
    return ForbiddenError(
        f"without keys, requests about memories must {must}: make keys (vllm-mega keys add), and serve --keys"
    )


def _is_local_host(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
