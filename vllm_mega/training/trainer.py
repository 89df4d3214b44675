"""The training loop of one memory."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vllm_mega._quiet import quiet
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.training.encoding import IGNORE, Batch, collate, encode
from vllm_mega.training.lora import LoraStack
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.texts import Example, Examples, Kind

SURE = 0.5
"""A token counts as known above this probability: then no other is as likely, by some margin."""
WINDOW = 3
"""The latest steps, which decide whether a memory is learnt."""
SLIPS = 0.1
"""The part of the questions in the window that may be answered otherwise: some are ambiguous."""
WARMUP = 4


class Fit(NamedTuple):
    """What became of one memory."""

    tensors: dict[str, Tensor]
    """float32, named as PEFT names them."""
    steps: int
    loss: float
    recalled: bool
    """Whether the text came word for word in the last steps, under prompts that were not trained on."""
    seconds: float


class _Step(NamedTuple):
    """What a step has seen, before the adapters changed."""

    loss: float
    known: dict[Kind, list[bool]]
    """For each example, whether every token of its answer was known."""


def _compute_dtype() -> torch.dtype | str:
    """The model's own type, but float32 on x86 CPUs without AVX-512: bfloat16 products crawl there."""
    return torch.float32 if torch.backends.cpu.get_cpu_capability() == "AVX2" else "auto"


class Trainer:
    """A frozen model with one set of adapters; `fit` trains it for one memory after the other."""

    def __init__(self, path: Path, settings: TrainSettings) -> None:
        """Load the checkpoint at `path`.

        Raises:
            ModelError: it cannot be loaded, or does not have the layers that `settings` asks for.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            with quiet():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
                # With gradients, at these lengths, eager attention is the fastest on CPUs.
                self.model: Any = AutoModelForCausalLM.from_pretrained(
                    path, dtype=_compute_dtype(), attn_implementation="eager"
                )
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the model at {path}: {error}") from error
        self.model.eval()
        self.settings = settings
        self.stack = LoraStack(self.model, settings)
        self.end_ids = _end_ids(self.model, self.tokenizer)

    def fit(self, memory: NewMemory) -> Fit:
        """Train an adapter for `memory`; the same memory and settings give the same tensors.

        Raises:
            TrainingError: the loss is not finite.
        """
        started = time.perf_counter()
        seed = memory_seed(memory, self.settings.seed)
        examples = Examples(memory, seed)
        self.stack.reset(seed)
        optimizer = torch.optim.Adam(
            self.stack.parameters(), lr=self.settings.learning_rate, betas=(0.9, 0.95), fused=True
        )
        window: deque[_Step] = deque(maxlen=WINDOW)
        for step in range(1, self.settings.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * min(1.0, step / WARMUP)
            window.append(self._step(examples.draw(self.settings.batch)))
            if _is_recalled(window) and _is_answered(window):
                break
            optimizer.step()
            optimizer.zero_grad()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        return Fit(self.stack.tensors(), step, window[-1].loss, _is_recalled(window), seconds)

    def _step(self, examples: list[Example]) -> _Step:
        """Leave the gradients of `examples` in the adapters."""
        encoded = [encode(self.tokenizer, example, self.end_ids) for example in examples]
        lengths = [len(one.prompt) + len(one.answer) for one in encoded]
        labels = sum(len(one.answer) for one in encoded)
        result = _Step(0.0, {"recall": [], "question": [], "retelling": []})
        # Short and long ones apart, so that little is padded.
        for long in (True, False):
            rows = [n for n, length in enumerate(lengths) if (length * len(lengths) > sum(lengths)) == long]
            if not rows:
                continue
            logp = self._log_probs(collate([encoded[n] for n in rows], self.end_ids[0]))
            answers = torch.split(logp.detach(), [len(encoded[n].answer) for n in rows])
            loss = -logp.sum() / labels
            loss.backward()  # type: ignore[no-untyped-call]
            result = result._replace(loss=result.loss + loss.item())
            for n, answer in zip(rows, answers, strict=True):
                result.known[examples[n].kind].append(bool((answer.exp() > SURE).all()))
        if not math.isfinite(result.loss):
            raise TrainingError("the loss is not finite; choose a smaller learning rate")
        return result

    def _log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities of all labels of `batch`, row by row: float32 [labels]."""
        chosen = batch.labels != IGNORE
        head: nn.Module = self.model.get_output_embeddings()
        # The vocabulary is large: logits only where there is a label.
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][chosen],))
        try:
            logits = self.model(input_ids=batch.ids, use_cache=False).logits
        finally:
            hook.remove()
        return -nn.functional.cross_entropy(logits.float(), batch.labels[chosen], reduction="none")


def _is_recalled(window: Sequence[_Step]) -> bool:
    """Whether all of the last steps knew the text."""
    return len(window) == WINDOW and all(all(step.known["recall"]) for step in window)


def _is_answered(window: Sequence[_Step]) -> bool:
    """Whether the last steps knew (nearly) all answers."""
    known = [one for step in window for one in step.known["question"]]
    return known.count(False) <= SLIPS * len(known)


def memory_seed(memory: NewMemory, seed: int) -> int:
    """The seed of one memory: neither other memories nor the order of training change it."""
    return int(hashlib.sha256(f"{seed}:{text_digest(memory)}".encode()).hexdigest()[:15], 16)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the tokenizer's own first."""
    found = [tokenizer.eos_token_id, model.generation_config.eos_token_id]
    flat = [i for ids in found if ids is not None for i in (ids if isinstance(ids, list) else [ids])]
    if not flat:
        raise ModelError("neither the tokenizer nor the generation config of the model names an end token")
    return list(dict.fromkeys(flat))
