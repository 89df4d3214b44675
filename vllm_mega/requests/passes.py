"""The passes of a request: what its mode makes of it. The server and the offline class both run them. Pure.

A pass is one run of the model. Some modes first recite what the memories hold; every mode then answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from vllm_mega.config import Mode
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.requests import conversation
from vllm_mega.requests.conversation import Message
from vllm_mega.requests.schemas import Plan

RECALL_SHARE = 0.25
"""Of a mixture's weight: a memory with less is not recalled on its own. So at most four are."""

READING_SHARE = 0.25
"""Of the mixture's weights, in the second pass of mode `irag`: the model reads the recalled text, and the
adapters only lean towards answering with one sentence of it. Measured in docs/training-log.md."""


class Recital(NamedTuple):
    """A pass that says what a memory holds: greedily, and as plain as memories are trained."""

    messages: Sequence[Message]
    mixture: Mixture
    tokens: int
    """So many are said at most."""


class Answer(NamedTuple):
    """The pass that answers, as the client asks for it."""

    messages: Sequence[Message]
    mixture: Mixture
    recites: bool
    """Whether the answer is what was memorized: penalties of the model's own are against saying it again."""


class _Steps(NamedTuple):
    """What a mode does with a mixture."""

    recitals: Callable[[Decision], list[Mixture]]
    """Each is recited, before the answer."""
    messages: Callable[[Sequence[Message], str], Sequence[Message]]
    """What is asked last, of the client's messages and of what was recited."""
    mixture: Callable[[Decision], Mixture]
    """What answers."""
    rewrites: bool
    """Whether there must be a question, for `messages` replaces it."""
    recites: bool
    """See `Answer`."""


def recitals(decision: Decision) -> list[Mixture]:
    """What mode `irag` recites, each in a pass of its own, best first.

    A blend of adapters recites none of its memories word for word, so each one that matters is recited
    alone, with the weight that it was trained at. A mixture of one memory is taken as it is; so is one
    in which none matters enough.
    """
    total = sum(max(hit.weight, 0.0) for hit in decision.hits)
    components = {component.adapter: component for component in decision.mixture.components}
    if len(components) < 2:
        return [decision.mixture]
    heavy = [hit.row.adapter for hit in decision.hits if hit.weight >= RECALL_SHARE * total > 0]
    alone = [components[adapter] for adapter in dict.fromkeys(heavy) if adapter in components]
    return [Mixture([(c.adapter, c.path, 1.0)]) for c in alone] or [decision.mixture]


def reading(decision: Decision) -> Mixture:
    """What answers in mode `irag`, where the recalled text stands in the context."""
    return decision.mixture.scaled(READING_SHARE)


_PLAIN = _Steps(
    recitals=lambda _: [],
    messages=lambda messages, _: messages,
    mixture=lambda decision: decision.mixture,
    rewrites=False,
    recites=False,
)
_MODES: Mapping[Mode, _Steps] = {
    "off": _PLAIN,
    "adapter": _PLAIN,
    "recall": _PLAIN._replace(
        messages=lambda messages, _: conversation.recall_messages(messages), rewrites=True, recites=True
    ),
    "irag": _PLAIN._replace(
        recitals=recitals, messages=conversation.informed_messages, mixture=reading, rewrites=True
    ),
}
REWRITING = frozenset(mode for mode, steps in _MODES.items() if steps.rewrites)
"""Modes in which no pass has the prompt that the client knows."""


def first_passes(plan: Plan, decision: Decision, messages: Sequence[Message], room: int) -> list[Recital]:
    """What is recited before the answer, best memory first; all of it may run at once.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        messages: the client's.
        room: tokens that they leave of the model's context.

    Raises:
        RequestError: the mode replaces the question, and there is none; or there is no room to recite.
    """
    steps = _steps(plan, decision)
    if steps.rewrites:
        conversation.question_of(messages)
    mixtures = steps.recitals(decision)
    if not mixtures:
        return []
    tokens, request = conversation.recall_tokens(room, len(mixtures)), conversation.recall_request(messages)
    return [Recital(request, mixture, tokens) for mixture in mixtures]


def recalled(recited: Sequence[str], control: Collection[str]) -> str | None:
    """What the answer reads of what the first passes said; None: there were none.

    Args:
        recited: the text of each, in their order.
        control: how the control tokens of the model are spelled: none of the text becomes one.
    """
    return conversation.context_of(recited, control) if recited else None


def last_pass(plan: Plan, decision: Decision, messages: Sequence[Message], context: str | None) -> Answer:
    """What answers.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        messages: the client's.
        context: what was `recalled`.
    """
    steps = _steps(plan, decision)
    return Answer(steps.messages(messages, context or ""), steps.mixture(decision), steps.recites)


def describe(
    plan: Plan, decision: Decision, start: int | None = None, context: str | None = None
) -> dict[str, Any]:
    """The field `mega` of a response: which memories were used, with weights, and why.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        start: the token of the prompt that was answered from which the mixture acted; None: it is empty.
        context: what was `recalled`.
    """
    value: dict[str, Any] = {
        "memories": [
            {"id": hit.id, "title": hit.title, "weight": hit.weight, "score": hit.score}
            for hit in decision.hits
        ],
        "mode": plan.mode,
        "best_score": decision.best_score,
        "namespace": plan.namespace,
        "start": start,
    }
    if context is not None:
        value["recalled"] = context
    return value


def _steps(plan: Plan, decision: Decision) -> _Steps:
    """Without a mixture there is nothing to recite or to recall."""
    return _MODES[plan.mode] if decision.mixture else _PLAIN
