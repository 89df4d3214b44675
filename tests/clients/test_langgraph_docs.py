"""docs/langgraph.md: its programs say what stands below them, with the real packages."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tests.clients.served import served
from tests.http.memories.server import MemoryServer
from vllm_mega.gate.gate import Gate, Query

BLOCK = re.compile(r"```python\n(.+?)```(?:\n\n```text\n(.+?)```)?", re.DOTALL)
URL = "http://127.0.0.1:8000"


def with_model(app: FastAPI, gate: Gate) -> FastAPI:
    """A model that says the memory which is nearest, of those with the tags of the request."""

    @app.post("/v1/chat/completions")
    def chat(asked: dict[str, Any]) -> dict[str, Any]:
        query = Query(asked["messages"][-1]["content"], tags=tuple(asked["mega"]["tags"]))
        (nearest,) = gate.explain(query, 1)[1]
        message = {"role": "assistant", "content": gate.text(nearest.row)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

    return app


def test_the_programs_say_what_the_page_says(tmp_path: Path, repo: Path) -> None:
    blocks = BLOCK.findall((repo / "docs" / "langgraph.md").read_text())
    assert len(blocks) == 4
    server = MemoryServer(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    try:
        with served(with_model(server.app, server.service.gate)) as url:
            for program, expected in blocks:
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    exec(compile(program.replace(URL, url), "docs/langgraph.md", "exec"), names)  # noqa: S102
                assert said.getvalue() == expected
    finally:
        server.close()
