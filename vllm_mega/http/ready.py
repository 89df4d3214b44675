"""`GET /mega/ready`: whether requests with memory can be answered now; 503 while they cannot.

vLLM's `/health` asks the engine alone, and is for those who restart a server. This one asks the bank too, and
is for those who send it requests: a bank that is away for a while is no reason to load a model anew.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from vllm.v1.engine.exceptions import EngineDeadError

router = APIRouter()


async def ready(request: Request) -> JSONResponse:
    """`{"ready", "engine", "bank"}`; 200 if both are "ok". No key is needed, so reasons are for the log."""
    state = request.app.state
    engine = await _engine(state.engine_client)
    bank = "unreadable" if await state.mega_watch.trouble() else "ok"
    is_ready = engine == bank == "ok"
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"ready": is_ready, "engine": engine, "bank": bank}, status)


async def _engine(client: Any) -> str:
    try:
        await client.check_health()
    except EngineDeadError:
        return "dead"
    return "ok"


router.add_api_route("/mega/ready", ready)
