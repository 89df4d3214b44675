"""LangChain."""

from __future__ import annotations

from os import environ
from typing import Any

from langchain_openai import ChatOpenAI, OpenAI
from said import Said, main

question = environ["QUESTION"]
plain: dict[str, Any] = {"model": environ["MODEL"], "base_url": environ["URL"], "api_key": "none"}
plain |= {"temperature": 0, "max_tokens": 8}


def invoke() -> Said:
    answer = ChatOpenAI(**plain, extra_body={"mega": {"mode": "adapter"}}).invoke(question)
    return str(answer.content), answer.response_metadata.get("mega")


def stream() -> Said:
    return "".join(str(chunk.content) for chunk in ChatOpenAI(**plain).stream(question)), None


def batch() -> Said:
    return OpenAI(**plain).batch([question, question])[1], None


if __name__ == "__main__":
    main({f.__name__: f for f in (invoke, stream, batch)})
