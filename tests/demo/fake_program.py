"""Stands for `vllm-mega` in tests of the demo: `train` writes nothing, `serve` knows what it is told by file.

The file (name in FAKE_ANSWERS) maps "MODE PROMPT" to answers; MODE is base, adapter, irag or recall.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [model("tiny"), model("tiny-mega")]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mode = request.get("mega", {}).get("mode", "base")
        answers = json.loads(Path(os.environ["FAKE_ANSWERS"]).read_text(encoding="utf-8"))
        text = answers.get(f"{mode} {request['messages'][-1]['content']}", "I do not know.")
        answer: dict[str, Any] = {
            "id": "x", "object": "chat.completion", "created": 0, "model": request["model"],
            "choices": [{
                "index": 0, "finish_reason": "stop", "token_ids": list(text.encode()),
                "message": {"role": "assistant", "content": text},
            }],
        }  # fmt: skip
        if mode != "base":
            used = [{"id": "m", "title": "A memory", "weight": 1.0, "score": 0.9}]
            answer["mega"] = {"memories": used, "mode": mode}
        self.reply(answer)

    def reply(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "test"}


if __name__ == "__main__" and sys.argv[1] == "serve":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    Path(os.environ["FAKE_ANSWERS"]).with_name("pid").write_text(str(os.getpid()), encoding="utf-8")
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
