"""What clients hear of errors: a kind and a status, and no more of the server than they may know. Pure."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import NamedTuple

from vllm_mega.errors import (
    BankChangedError,
    BusyError,
    ConfigError,
    DocumentError,
    DraftError,
    ForbiddenError,
    KeyReusedError,
    LimitError,
    MegaError,
    MemoryChangedError,
    MemoryNotFoundError,
    RequestError,
)

logger = logging.getLogger(__name__)
_LONGEST = 1000
"""Characters of a message: it may repeat what was sent."""


class Refusal(NamedTuple):
    """Why a request is not answered."""

    message: str
    kind: str
    """As OpenAI's clients know it."""
    status: HTTPStatus
    param: str | None = None
    """What of the request it is about."""
    retry_after: int | None = None
    """Seconds; None: waiting does not help, or nobody knows for how long."""


_KINDS: tuple[tuple[type[MegaError], str, HTTPStatus], ...] = (
    (ForbiddenError, "PermissionDeniedError", HTTPStatus.FORBIDDEN),
    (MemoryNotFoundError, "NotFoundError", HTTPStatus.NOT_FOUND),
    (MemoryChangedError, "PreconditionFailedError", HTTPStatus.PRECONDITION_FAILED),
    (KeyReusedError, "UnprocessableEntityError", HTTPStatus.UNPROCESSABLE_ENTITY),
    (BusyError, "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE),
    (BankChangedError, "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE),
    (RequestError, "BadRequestError", HTTPStatus.BAD_REQUEST),
    (ConfigError, "BadRequestError", HTTPStatus.BAD_REQUEST),
    (DocumentError, "BadRequestError", HTTPStatus.BAD_REQUEST),
    (DraftError, "BadRequestError", HTTPStatus.BAD_REQUEST),
)


def refusal_of(error: MegaError) -> Refusal:
    """What a client hears of `error`; what it must not know, the log of the server has."""
    if isinstance(error, LimitError):
        return _limited(error)
    for kind, name, status in _KINDS:
        if isinstance(error, kind):
            return Refusal(str(error)[:_LONGEST], name, status, getattr(error, "param", None))
    logger.error("a request about memories failed: %s", error)
    message = "the server could not do this: whoever runs it finds the reason in its log"
    return Refusal(message, "InternalServerError", HTTPStatus.INTERNAL_SERVER_ERROR)


def _limited(error: LimitError) -> Refusal:
    """Clients try again what gets 429; where that does not help, they hear that it is not for them."""
    if error.retry_after is None:
        return Refusal(str(error), "PermissionDeniedError", HTTPStatus.FORBIDDEN)
    status = HTTPStatus.TOO_MANY_REQUESTS
    return Refusal(str(error), "RateLimitError", status, retry_after=error.retry_after)
