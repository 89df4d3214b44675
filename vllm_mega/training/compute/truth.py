"""Whether a memory is recalled: asked of the untouched model, with the adapter as it will be exported.

The training forward leaves tokens out of the loss, packs its rows and computes with kernels of its own, so it
cannot be the judge of what it has reached. A model decodes a text greedily exactly if, behind every beginning
of the text, the next token of the text is its likeliest among all. One pass over prompt and text shows that,
in which the adapter acts from start on, as it does when it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vllm_mega.training.compute.lora import PEFT_PREFIX, peft_name
from vllm_mega.training.recipe.encoding import Encoded

LOGITS = 2**27
"""Numbers that logits may take at once: as many texts are asked together."""

Tensors = Mapping[str, Tensor]


class Verdict(NamedTuple):
    """What the untouched model says with an adapter."""

    recalled: bool
    """Whether it decodes the text greedily, to its end."""
    winners: Tensor
    """int64: tokens that are likelier than the text's, somewhere in it."""


@torch.no_grad()
def recite(
    model: Any,
    adapters: Sequence[Tensors],
    texts: Sequence[Encoded],
    ends: Sequence[int],
    *,
    scaling: float,
    dtype: torch.dtype,
) -> list[Verdict]:
    """What `model` says with each of `adapters` to the prompt of its text.

    Args:
        model: of transformers, untouched.
        adapters: float32 tensors, named as PEFT names them.
        texts: of each, prompt, start and answer; all prompts are of one length.
        ends: tokens at which vLLM ends an answer; any of them may end a text.
        scaling: alpha / rank.
        dtype: of the exported tensors.
    """
    size = max(1, LOGITS // (model.config.get_text_config().vocab_size * max(len(t.answer) for t in texts)))
    verdicts: list[Verdict] = []
    for start in range(0, len(texts), size):
        chosen = slice(start, start + size)
        starts = [text.start for text in texts[chosen]]
        with adapted(model, adapters[chosen], starts, scaling=scaling, dtype=dtype):
            verdicts += _verdicts(model, texts[chosen], ends)
    return verdicts


def _verdicts(model: Any, texts: Sequence[Encoded], ends: Sequence[int]) -> list[Verdict]:
    device = model.get_input_embeddings().weight.device
    rows = [text.prompt + text.answer[:-1] for text in texts]
    width = max(map(len, rows))
    # Behind a row's end stands what no token before it sees.
    ids = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows], device=device)
    # Places, not a number: of a slice, which is not contiguous, torch copies the head once for each row.
    kept = torch.arange(len(texts[0].prompt) - 1, width, device=device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
    said = logits[:, -len(kept) :].argmax(-1)
    verdicts = []
    for row, text in zip(said, texts, strict=True):
        answer = torch.tensor(text.answer, device=device)
        wrong = row[: len(answer)] != answer
        wrong[-1] &= int(row[len(answer) - 1]) not in ends
        verdicts.append(Verdict(not bool(wrong.any()), row[: len(answer)][wrong].unique()))
    return verdicts


@contextmanager
def adapted(
    model: Any, adapters: Sequence[Tensors], starts: Sequence[int], *, scaling: float, dtype: torch.dtype
) -> Iterator[None]:
    """Row n of what `model` is given meets adapter n from its token `starts[n]` on, while the context lasts.

    The rows are whole conversations: no keys and values of earlier calls stand before them.
    """
    handles = []
    first = torch.tensor(starts, device=model.get_input_embeddings().weight.device)[:, None]
    for name in sorted({name.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for name in adapters[0]}):
        module: nn.Linear = model.get_submodule(name)
        like = module.weight
        a, b = (
            torch.stack([adapter[peft_name(name, part)] for adapter in adapters]).to(dtype).to(like)
            for part in "AB"
        )

        def add(_module: nn.Module, inputs: Any, out: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
            more: Tensor = scaling * (inputs[0] @ a.mT) @ b.mT
            places = torch.arange(more.shape[1], device=more.device)
            return out + more * (places >= first)[..., None]

        handles.append(module.register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
