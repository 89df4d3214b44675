"""Texts of memories in the prompts of completions: between tokens, so that what stands before is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from vllm_mega.errors import RequestError

_GAP = "\n\n"
"""Between a text and what follows, as in chats."""
_OF_ITS_TEXT = ("prompt", "prompt_token_offsets")
"""What inputs of the engine say of the text of a prompt: it is no longer true."""
_BY_POSITION = ("echo", "prompt_logprobs", "return_token_offsets", "prompt_embeds")


def check_known(request: Any) -> None:
    """Refuse what asks about a prompt by position, or brings one without tokens: a text is put into it.

    Raises:
        RequestError: names the field.
    """
    for name in _BY_POSITION:
        if getattr(request, name, None) not in (None, False):
            raise RequestError(
                f"the texts of memories are put into the prompt, which does not go with {name}: leave {name} "
                "out, or set mega.mode to 'off'",
                name,
            )


async def with_texts(
    completion: Any, request: Any, inputs: Sequence[Any], starts: Sequence[int], texts: Sequence[str | None]
) -> list[Any]:
    """The inputs of the engine, with a text in each prompt at its start.

    The token that begins every prompt of the model (`<s>`) stays the first.

    Args:
        completion: vLLM's handler of completions.
        request: that was rendered.
        inputs: what vLLM made of its prompts.
        starts: of each, in tokens.
        texts: of each; None: its prompt stays as it is.

    Raises:
        RequestError: a prompt has no room for its text.
    """
    read = iter(await _tokens(completion, request, [text for text in texts if text is not None]))
    each = zip(inputs, starts, texts, strict=True)
    return [p if text is None else _inserted(completion, p, start, next(read)) for p, start, text in each]


async def _tokens(completion: Any, request: Any, texts: Sequence[str]) -> list[Sequence[int]]:
    """The token ids of `texts` [n], and of what follows each, by vLLM's own renderer."""
    if not texts:
        return []
    told = {
        "prompt": [text + _GAP for text in texts],
        "add_special_tokens": False,
        "truncate_prompt_tokens": None,
        "kv_transfer_params": None,
    }
    rendered = await completion.online_renderer.render_completion(request.model_copy(update=told))
    assert not isinstance(rendered, ErrorResponse), "the prompts were none"
    return [completion._extract_prompt_components(prompt).token_ids for prompt in rendered]


def _inserted(completion: Any, prompt: Any, start: int, read: Sequence[int]) -> Any:
    ids = completion._extract_prompt_components(prompt).token_ids
    if start == 0 and ids and ids[0] == completion.renderer.tokenizer.bos_token_id:
        start = 1
    room = completion.model_config.max_model_len - len(ids)
    if len(read) >= room:
        raise RequestError(
            f"the texts of memories have {len(read)} tokens, and the prompt leaves {room} of the model's "
            "context: shorten it, or ask for fewer memories (mega.top_k)",
            "prompt",
        )
    kept = {name: value for name, value in prompt.items() if name not in _OF_ITS_TEXT}
    return {**kept, "prompt_token_ids": [*ids[:start], *read, *ids[start:]]}
