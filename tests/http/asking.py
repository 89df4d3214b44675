"""Asking a server with the official client."""

from __future__ import annotations

import os
import sys
from typing import Any

import openai
import pytest

BASE = "SmolLM2-135M-Instruct"
MEGA = f"{BASE}-mega"
TOKENS = 8


def serve_command(*variables: str) -> list[str]:
    """`vllm-mega serve` with these environment variables, and none of vLLM's: other tests set them here."""
    strange = [name for name in os.environ if name.startswith("VLLM_") and name != "VLLM_MEGA_HOME"]
    unset = [f"--unset={name}" for name in strange]
    return ["env", *unset, *variables, sys.executable, "-m", "vllm_mega", "serve"]


def ask(client: openai.OpenAI, question: str, model: str = MEGA, *, mega: Any = None, **more: Any) -> Any:
    body = {} if mega is None else {"mega": mega}
    more = {"temperature": 0, "max_tokens": TOKENS, "seed": 1, **more}
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], extra_body=body, **more
    )


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def used(answer: Any) -> list[str]:
    return [memory["id"] for memory in answer.mega["memories"]]


def refused(call: Any, status: int) -> dict[str, Any]:
    with pytest.raises(openai.APIStatusError) as error:
        call()
    assert error.value.status_code == status, error.value
    assert isinstance(error.value.body, dict)
    return error.value.body


def stream(answer: Any) -> tuple[str, list[Any]]:
    chunks = list(answer)
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return said, chunks
