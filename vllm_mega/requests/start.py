"""The start that a client gives: from which token of its prompt the mixture acts. Pure."""

from __future__ import annotations

from vllm_mega.errors import RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.requests.passes import REWRITING
from vllm_mega.requests.schemas import FIELD, Plan, Start

PARAM = f"{FIELD}.start"


def check_chat(plan: Plan) -> None:
    """Refuse a start that no prompt of a chat could be meant by.

    Raises:
        RequestError: it is a character, or any token but the first in a mode that rewrites the prompt.
    """
    if plan.start is None:
        return
    if plan.start.token is None:
        raise RequestError(
            f"{PARAM}: the template writes the prompt of a chat, so no character of it is known: "
            "give a token, or leave it out",
            PARAM,
        )
    if plan.start.token and plan.mode in REWRITING:
        raise RequestError(
            f"{PARAM} is {plan.start.token}, but mode {plan.mode} rewrites the prompt: give 0 (everywhere), "
            "or leave it out (from the question on)",
            PARAM,
        )


def check_texts(plan: Plan, decision: Decision) -> None:
    """Refuse a start in a prompt that the client does not know, for a text is put into it.

    Raises:
        RequestError: it is any token but the first, and the decision has texts.
    """
    read = [hit.id for hit in decision.hits if hit.text is not None]
    if read and plan.start is not None and plan.start.token:
        raise RequestError(
            f"{PARAM} is {plan.start.token}, but the texts of {', '.join(read)} are put into the prompt, for "
            "they have no adapter (yet): give 0 (everywhere), or leave it out (from the question on)",
            PARAM,
        )


def token_of(start: Start, tokens: int) -> int:
    """The client's own start in a prompt of so many tokens.

    Raises:
        RequestError: it is beyond the prompt.
    """
    assert start.token is not None
    if start.token > tokens:
        raise RequestError(
            f"{PARAM} is {start.token}, but the prompt has {tokens} tokens: give 0 to {tokens}",
            PARAM,
        )
    return start.token
