"""Messages: what of them the gate compares, and how the modes rewrite them. Pure; never changes its input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vllm_mega import prompts
from vllm_mega.errors import RequestError
from vllm_mega.models.control_tokens import plain_text
from vllm_mega.models.start import other_question
from vllm_mega.requests.wellformed import check_characters, is_text, part_text

Message = Mapping[str, Any]
"""Of the usual shape (see `wellformed.usual_messages`)."""
SPEAKERS = ("user", "assistant")
LONGEST_RECITAL = 256
SHORTEST_RECITAL = 16
"""Tokens. A text that is cut to fewer says nothing."""


def message_text(message: Message) -> str:
    """The text of a message; the text parts, one a line, when its content has parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    return "\n".join(part_text(part) for part in content if is_text(part))


def user_text(messages: Sequence[Message], window: int = 1) -> str | None:
    """The text of the last `window` user messages, oldest first; None when there is none.

    System prompts, answers and tool results never take part.
    """
    texts = [message_text(message).strip() for message in messages if _is_user(message)]
    return "\n".join(text for text in texts[-window:] if text) or None


def dialogue_text(messages: Sequence[Message], count: int) -> str | None:
    """The last `count` messages of user and assistant, newest first; None when that is but one.

    Newest first: what was said last is mostly what is meant. Without names: who said it is no topic.
    """
    texts = [message_text(message).strip() for message in messages if message.get("role") in SPEAKERS]
    spoken = [text for text in texts if text][::-1][:count]
    return "\n".join(spoken) if len(spoken) > 1 else None


NO_TEXT = "the gate compares texts: send text or token ids, give mega.memories, or set mega.mode to 'off'"


def prompts_of(prompt: object) -> list[str | list[int]]:
    """The prompts of a completion request: each a text, or token ids.

    Raises:
        RequestError: there is none.
    """
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise RequestError(f"there is no prompt: {NO_TEXT}", "prompt")
    for n, entry in enumerate(prompt):
        if isinstance(entry, str):
            check_characters(entry, f"prompt[{n}]")
    return prompt


def replace_question(messages: Sequence[Message], replacement: Sequence[Message]) -> list[dict[str, Any]]:
    """`messages` with the last user message replaced by `replacement`; what is no text stays in it.

    The other parts (images, audio) of the replaced message move to the last message of `replacement`.
    """
    at = _last_user(messages)
    content = messages[at].get("content")
    attached = [p for p in content if not is_text(p)] if isinstance(content, list | tuple) else []
    new = [dict(message) for message in replacement]
    if attached:
        new[-1]["content"] = [{"type": "text", "text": new[-1]["content"]}, *attached]
    return [*map(dict, messages[:at]), *new, *map(dict, messages[at + 1 :])]


def other_messages(messages: Sequence[Message], context: str | None = None) -> list[dict[str, Any]] | None:
    """`messages` with another last question: where the two prompts part, it begins.

    Args:
        messages: a conversation.
        context: what stands in its last user message before the question; None: nothing does.

    Returns:
        None: there is no user message.
    """
    if not any(map(_is_user, messages)):
        return None
    at = _last_user(messages)
    varied = [*map(dict, messages)]
    asked, begin = message_text(messages[at]), "" if context is None else prompts.before(context)
    varied[at]["content"] = begin + other_question(asked.removeprefix(begin))
    return varied


def question_of(messages: Sequence[Message]) -> str:
    """The text of the last user message, for the modes that rewrite it.

    Raises:
        RequestError: there is none.
    """
    text = user_text(messages)
    if text is None:
        raise RequestError(
            "this mode rewrites the last user message, and there is none with text", "messages"
        )
    return text


def recall_tokens(room: int, recitals: int = 1) -> int:
    """How many tokens each recital may have that irag puts into the context; half of the room is left.

    Args:
        room: tokens that the prompt leaves of the context.
        recitals: how many there are.

    Raises:
        RequestError: there is no room for a text.
    """
    tokens = min(LONGEST_RECITAL, room // (2 * max(2, recitals)))
    if tokens < SHORTEST_RECITAL:
        raise RequestError(
            f"mode irag puts what is recalled before the question, and the messages leave {room} tokens of "
            f"the model's context, too few for {recitals} recitals: shorten them, or use mode 'adapter'",
            "messages",
        )
    return tokens


def recall_messages(messages: Sequence[Message], context: str | None = None) -> list[dict[str, Any]]:
    """Mode `recall`: the conversation, its last question asking for what was memorized.

    `context` stands before it: what is read of a memory that has no adapter.
    """
    asked = recall_request(messages)
    return replace_question(messages, asked if context is None else prompts.behind(context, asked))


def recall_request(messages: Sequence[Message]) -> list[prompts.Message]:
    """The bare request to recite, as memories are trained to hear it.

    Which memory, the adapter knows. So the recital does not depend on the question: no words of it slip in,
    and all questions about one memory share its prefix cache.

    Raises:
        RequestError: there is no question that it could stand for.
    """
    question_of(messages)
    return prompts.user(prompts.MEMORY_PROMPT)


def context_of(texts: Sequence[str], recitals: Sequence[str], control: Collection[str]) -> str:
    """What the model reads before the question, best first, none of it a part of the template.

    Texts come before recitals: they are the same whatever is asked, so a prefix cache has more of them.

    Args:
        texts: of memories.
        recitals: what the model has said.
        control: how the control tokens of its tokenizer are spelled (see `models.control_tokens`).
    """
    parts = [*(text.strip() for text in texts), *map(prompts.spoken, recitals)]
    return plain_text("\n\n".join(parts), control)


def informed_messages(messages: Sequence[Message], context: str) -> list[dict[str, Any]]:
    """The conversation, its last question behind what is to be read: texts of memories, or recitals."""
    return replace_question(messages, prompts.irag_messages(question_of(messages), context))


def _last_user(messages: Sequence[Message]) -> int:
    return max(i for i, message in enumerate(messages) if _is_user(message))


def _is_user(message: Message) -> bool:
    return message.get("role") == "user"
