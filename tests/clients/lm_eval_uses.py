"""lm-evaluation-harness."""

from __future__ import annotations

import json
import logging
from os import environ
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from said import Said, main

logging.disable(logging.CRITICAL)
question = environ["QUESTION"]
limits = {"max_gen_toks": 8, "until": [], "temperature": 0, "do_sample": False}


def ask(kind: type, path: str, use: str, *arguments: Any) -> Any:
    model = kind(
        model=environ["MODEL"], base_url=f"{environ['URL']}/{path}", tokenizer=environ["TOKENIZER"],
        batch_size=len(arguments), max_retries=1,
    )  # fmt: skip
    instances = [Instance(use, {}, one, n) for n, one in enumerate(arguments)]
    return getattr(model, use)(instances, disable_tqdm=True)


def chat() -> Said:
    talk = JsonChatStr(json.dumps([{"role": "user", "content": question}]))
    return ask(LocalChatCompletion, "chat/completions", "generate_until", (talk, limits))[0], None


def completion() -> Said:
    return ask(LocalCompletionsAPI, "completions", "generate_until", *[(question, limits)] * 2)[1], None


def likelihood() -> Said:
    """What is generated must be the likeliest, and what is not must be less likely."""
    said, _ = completion()
    found = ask(LocalCompletionsAPI, "completions", "loglikelihood", (question, said), (question, " zebra"))
    (likely, greedy), (unlikely, _) = found
    return (said if greedy and likely / 8 > unlikely else repr(found)), None


if __name__ == "__main__":
    main({f.__name__: f for f in (chat, completion, likelihood)})
