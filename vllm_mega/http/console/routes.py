"""`GET /mega`: the console. Its files say nothing of any memory, so nobody needs a key for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from vllm_mega.http.console.files import FILES, File

POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
    "img-src 'self' data:", "font-src 'self'", "form-action 'none'", "frame-ancestors 'none'",
    "base-uri 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
))  # fmt: skip
"""What the page may do: ask its own server. A text never becomes markup: no script may write any."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, but asked for each time: a new server has a new page
}


def _handler(file: File) -> Callable[[Request], Awaitable[Response]]:
    headers = {**_HEADERS, "ETag": file.etag}

    async def serve(request: Request) -> Response:
        if file.etag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(file.body, headers=headers, media_type=file.kind)

    return serve


def _tags(header: str) -> list[str]:
    """Those of If-None-Match; proxies that compress make them weak."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


router = APIRouter()
for _path, _file in FILES.items():
    router.add_api_route(_path, _handler(_file), methods=["GET", "HEAD"], include_in_schema=False)
