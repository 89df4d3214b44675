"""curl, as docs/serving.md has it."""

from __future__ import annotations

import json
import subprocess
from os import environ
from typing import Any

from said import Said, main


def post(path: str, **fields: Any) -> Any:
    body = json.dumps({"model": environ["MODEL"], "temperature": 0, "max_tokens": 8, **fields})
    command = ["curl", "-s", f"{environ['URL']}/{path}", "-H", "Content-Type: application/json", "-d", body]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def chat() -> Said:
    answer = post("chat/completions", messages=[{"role": "user", "content": environ["QUESTION"]}])
    return answer["choices"][0]["message"]["content"], answer["mega"]


def completion() -> Said:
    answer = post("completions", prompt=environ["QUESTION"])
    return answer["choices"][0]["text"], answer["mega"]


if __name__ == "__main__":
    main({f.__name__: f for f in (chat, completion)})
