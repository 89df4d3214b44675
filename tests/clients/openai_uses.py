"""OpenAI's own client."""

from __future__ import annotations

from os import environ
from typing import Any

from openai import OpenAI
from said import Said, main

client = OpenAI(base_url=environ["URL"], api_key="none", max_retries=0)
question = environ["QUESTION"]
plain: dict[str, Any] = {"model": environ["MODEL"], "temperature": 0, "max_tokens": 8}
talk: dict[str, Any] = {**plain, "messages": [{"role": "user", "content": question}]}


def chat() -> Said:
    answer: Any = client.chat.completions.create(**talk, extra_body={"mega": {"mode": "adapter"}})
    return answer.choices[0].message.content, answer.mega


def streamed() -> Said:
    chunks: list[Any] = list(client.chat.completions.create(**talk, stream=True))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].mega


def completion() -> Said:
    answer: Any = client.completions.create(**plain, prompt=question)
    return answer.choices[0].text, answer.mega


def prompts() -> Said:
    answer: Any = client.completions.create(**plain, prompt=[question, question])
    return answer.choices[1].text, answer.mega[1]


def responses() -> Said:
    return client.responses.create(model=environ["MODEL"], input=question).output_text, None


if __name__ == "__main__":
    main({f.__name__: f for f in (chat, streamed, completion, prompts, responses)})
