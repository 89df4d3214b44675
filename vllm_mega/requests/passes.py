"""The passes of a request: what its mode makes of it. The server and the offline class both run them. Pure.

A pass is one run of the model. Some modes first recite what the memories hold; every mode then answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from vllm_mega.config import Mode
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.requests import conversation
from vllm_mega.requests.conversation import Message
from vllm_mega.requests.reading import heavy, texts
from vllm_mega.requests.schemas import Plan

READING_SHARE = 0.25
"""Of the mixture's weights, where the model reads the text (mode `both`, second pass of `irag`): the
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
    context: str | None
    """What stands in the last user message before the question; None: nothing does."""


class _Steps(NamedTuple):
    """What a mode does with a mixture."""

    recitals: Callable[[Decision], list[Mixture]]
    """Each is recited, before the answer."""
    messages: Callable[[Sequence[Message], str | None], Sequence[Message]]
    """What is asked last, of the client's messages and of what is read; None: nothing is."""
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
    in which none matters enough. Of memories whose texts are read nothing is recited, and beside them only
    what matters.
    """
    components = {component.adapter: component for component in decision.mixture.components}
    read = bool(texts(decision))
    if len(components) < 2 and not read:
        return [decision.mixture]
    adapters = [hit.row.adapter for hit in heavy(decision.hits) if hit.row.adapter in components]
    alone = [components[adapter] for adapter in dict.fromkeys(adapters) if adapter is not None]
    return [Mixture([(c.adapter, c.path, 1.0)]) for c in alone] or ([] if read else [decision.mixture])


def reading(decision: Decision) -> Mixture:
    """What answers where the text of the memories stands in the context."""
    return decision.mixture.scaled(READING_SHARE)


def _informed(messages: Sequence[Message], context: str | None) -> Sequence[Message]:
    return messages if context is None else conversation.informed_messages(messages, context)


_PLAIN = _Steps(
    recitals=lambda _: [],
    messages=_informed,
    mixture=lambda decision: decision.mixture,
    rewrites=False,
    recites=False,
)
_MODES: Mapping[Mode, _Steps] = {
    "off": _PLAIN,
    "adapter": _PLAIN,
    "recall": _PLAIN._replace(messages=conversation.recall_messages, rewrites=True, recites=True),
    "irag": _PLAIN._replace(recitals=recitals, mixture=reading, rewrites=True),
    "text": _PLAIN._replace(rewrites=True),
    "both": _PLAIN._replace(mixture=reading, rewrites=True),
}
REWRITING = frozenset(mode for mode, steps in _MODES.items() if steps.rewrites)
"""Modes in which no pass has the prompt that the client knows; nor has one that reads a text."""


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
    if steps.rewrites or texts(decision):
        conversation.question_of(messages)
    mixtures = steps.recitals(decision)
    if not mixtures:
        return []
    tokens, request = conversation.recall_tokens(room, len(mixtures)), conversation.recall_request(messages)
    return [Recital(request, mixture, tokens) for mixture in mixtures]


def recalled(decision: Decision, recited: Sequence[str], control: Collection[str]) -> str | None:
    """What the answer reads: texts of memories, and what the first passes said; None: there is nothing.

    Args:
        decision: of the gate, or of the client.
        recited: the text of each of the first passes, in their order.
        control: how the control tokens of the model are spelled: none of the text becomes one.
    """
    read = texts(decision)
    return conversation.context_of(read, recited, control) if read or recited else None


def last_pass(plan: Plan, decision: Decision, messages: Sequence[Message], context: str | None) -> Answer:
    """What answers.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        messages: the client's.
        context: what was `recalled`.
    """
    steps = _steps(plan, decision)
    return Answer(steps.messages(messages, context), steps.mixture(decision), steps.recites, context)


def answering(plan: Plan, decision: Decision) -> Mixture:
    """What acts while the answer is made."""
    return _steps(plan, decision).mixture(decision)


def _steps(plan: Plan, decision: Decision) -> _Steps:
    """Without a mixture and without a text there is nothing to recite or to read."""
    return _MODES[plan.mode] if decision.mixture or texts(decision) else _PLAIN
