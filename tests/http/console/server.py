"""The console over the routes about memories: a real catalog and a real gate; only the engine is made up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import generate_latest

from tests.banks import last_event
from tests.http.memories.server import MemoryServer
from vllm_mega.bank.catalog.sizes import sizes
from vllm_mega.bank.layout import NewMemory
from vllm_mega.demo.server import HOST, free_port
from vllm_mega.engine.residency import Residency
from vllm_mega.errors import MegaError
from vllm_mega.http import measures
from vllm_mega.http.console.routes import router
from vllm_mega.http.entrance import principal
from vllm_mega.http.memories.answering import refuse
from vllm_mega.http.memories.refusing import refusal_of
from vllm_mega.http.metrics import Told, exposition
from vllm_mega.http.sse import DONE, PREFIX, annotate
from vllm_mega.memories import remember
from vllm_mega.requests.deciding import Ask, decide
from vllm_mega.requests.describing import describe
from vllm_mega.requests.passes import recalled
from vllm_mega.requests.schemas import make_plan

MODEL = "invented-base"
SAID = "So it is told, <b>word for word</b>."
SECONDS_PER_WORD = 0.01


class ConsoleServer(MemoryServer):
    """`MemoryServer` with the page, with chats whose memories are the gate's and whose words are `SAID`."""

    def __init__(self, folder: Path, *, keys: bool = False) -> None:
        super().__init__(folder, keys=keys)
        self.app.include_router(router)
        self.counts = Residency(slots=4, slots_used=2, slot_hits=30, slot_misses=10, loads=10)
        self.app.add_api_route("/v1/models", _models)
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])
        self.app.add_api_route("/mega/metrics", self._metrics)
        self.app.add_api_route("/metrics", lambda: Response(generate_latest()))

    def tell(self, *memories: dict[str, Any], namespace: str = "default") -> None:
        """Have memories remembered, as a client of the same bank would."""
        given = [NewMemory(**memory, namespace=namespace) for memory in memories]
        remember(self.service.catalog, given, self.service.embedder, "somebody")

    async def _metrics(self) -> Response:
        told = Told(last_event(self.bank), sizes(self.service.catalog))
        return Response(exposition([[msgspec.structs.asdict(self.counts)]], told))

    async def _chat(self, request: Request) -> Response:
        body, service = await request.json(), self.service
        try:
            plan = make_plan(body.get("mega"), service.settings)
            principal().check("read", plan.namespace)
        except MegaError as error:
            return refuse(refusal_of(error))
        ask = Ask.about(plan, body["messages"], service.settings)
        (decision,) = await asyncio.to_thread(decide, service.gate, [ask], 4)
        assert not isinstance(decision, Exception)
        measures.ROUTES.labels(measures.decided(plan, decision)).inc()
        value = describe(plan, decision, 0, recalled(decision, [], ()))
        return StreamingResponse(annotate(_words(), value), media_type="text/event-stream")

    @contextmanager
    def running(self) -> Iterator[str]:
        """The root URL, while it is served on the loopback interface."""
        port = free_port()
        config = uvicorn.Config(self.app, HOST, port, log_level="error", ws="none", lifespan="off",
                                timeout_graceful_shutdown=1)  # fmt: skip
        server = uvicorn.Server(config)
        self.app.state.server = server
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server has ended"
            thread.join(0.01)
        try:
            yield f"http://{HOST}:{port}"
        finally:
            server.should_exit = True
            thread.join(10)
            self.close()


def _models() -> JSONResponse:
    return JSONResponse({"object": "list", "data": [{"id": MODEL}, {"id": f"{MODEL}-mega"}]})


async def _words() -> AsyncGenerator[str, None]:
    for word in SAID.split(" "):
        await asyncio.sleep(SECONDS_PER_WORD)
        yield _chunk([{"delta": {"content": f"{word} "}, "finish_reason": None}])
    yield _chunk([{"delta": {}, "finish_reason": "stop"}])
    yield _chunk([], usage={"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20})
    yield f"{DONE}\n\n"


def _chunk(choices: list[Any], **more: Any) -> str:
    return f"{PREFIX}{json.dumps({'choices': choices, **more}, separators=(',', ':'))}\n\n"
