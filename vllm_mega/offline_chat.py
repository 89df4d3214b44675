"""Conversations to vLLM's offline class, each with its own mixture from its own start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vllm import RequestOutput, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.renderers import ChatParams
from vllm.utils.mistral import is_mistral_tokenizer

from vllm_mega.errors import RequestError
from vllm_mega.hook.routed import Route, started
from vllm_mega.hook.starting import check_arguments
from vllm_mega.models.start import start_of
from vllm_mega.requests.conversation import Message, other_messages
from vllm_mega.requests.schemas import Start
from vllm_mega.requests.start import token_of


class Chat(NamedTuple):
    """What to answer, and how."""

    messages: Sequence[Message]
    sampling_params: SamplingParams
    mixture: LoRARequest | None
    """None: the base model."""
    start: Start | None
    """None: from where the question begins."""
    context: str | None
    """What stands in the last user message before the question; None: nothing does."""


Answered = tuple[RequestOutput, int | None]
"""The output, and the token from which the mixture acted; None: there is no mixture."""


def answered(llm: Any, chats: Sequence[Chat], use_tqdm: bool) -> list[Answered]:
    """What `llm.chat` of `vllm.LLM` answers in its template, all in one run of the engine.

    Raises:
        RequestError: a prompt does not have this start, or the sampling parameters give one to the engine.
        VLLMValidationError: what vLLM refuses.
    """
    for chat in chats:
        check_arguments(chat.sampling_params.extra_args, "extra_args")
    sampling: list[SamplingParams] = []
    routes: list[Route] = []

    def prompts() -> Iterator[Any]:
        # vLLM takes the parameters of a prompt after the prompt: the engine works while the next is rendered.
        for n, chat in enumerate(chats):
            # vLLM 0.32 keeps the engine's template, and yet wants it with every call.
            prompt = llm._preprocess_chat_one(chat.messages, chat_template=llm.chat_template)
            routes.append(Route(chat.mixture, _noted(n, llm, chat, prompt)))
            sampling.append(started(chat.sampling_params, routes[-1]))
            yield prompt

    mixtures = [chat.mixture for chat in chats]
    llm._render_and_add_requests(prompts(), sampling, lora_requests=mixtures)
    outputs = llm._run_engine(RequestOutput, use_tqdm=use_tqdm)
    return [(output, route.used) for output, route in zip(outputs, routes, strict=True)]


def _noted(number: int, llm: Any, chat: Chat, prompt: Any) -> int:
    try:
        return _start(llm, chat, prompt)
    except RequestError as error:
        error.add_note(f"in conversation {number}")
        raise


def _start(llm: Any, chat: Chat, prompt: Any) -> int:
    """See `starting.chat_start`."""
    ids = prompt.get("prompt_token_ids") or ()
    if chat.start is not None:
        return token_of(chat.start, len(ids))
    varied = other_messages(chat.messages, chat.context)
    if chat.mixture is None or varied is None:
        return 0
    try:
        rendered = _rendered(llm, varied)
    except VLLMValidationError:
        return 0
    return start_of(ids, rendered.get("prompt_token_ids") or ())


def _rendered(llm: Any, messages: Sequence[Message]) -> Any:
    """The prompt that `vllm.LLM.chat` makes of messages; no cache learns of it, and none is too long."""
    as_ids = is_mistral_tokenizer(llm.renderer.tokenizer) or llm.model_config.enable_prompt_embeds
    asking = {"add_generation_prompt": True, "continue_final_message": False, "tools": None}
    tokens = llm.renderer.default_chat_tok_params.with_kwargs(
        add_special_tokens=False,
        truncate_prompt_tokens=llm.model_config.max_model_len,
        truncation_side="right",
    )
    params = ChatParams(llm.chat_template, chat_template_kwargs={**asking, "tokenize": as_ids})
    _, (prompt,) = llm.renderer.render_chat([messages], params, tokens, skip_mm_cache=True)
    return prompt
