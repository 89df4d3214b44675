"""The training loop of one memory."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.training.encoding import IGNORE, Batch, collate, encode
from vllm_mega.training.lora import LoraStack
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.texts import Examples

SURE = 0.5
"""A token counts as known above this probability: then no other is as likely, by some margin."""
PATIENCE = 2
"""Steps in a row in which all recall examples must be known."""
WARMUP = 4


class Fit(NamedTuple):
    """What became of one memory."""

    tensors: dict[str, Tensor]
    """float32, named as PEFT names them."""
    steps: int
    loss: float
    recalled: bool
    """Whether the early stop was reached: the text came word for word under prompts never trained on."""
    seconds: float


class Trainer:
    """A frozen model with one set of adapters; `fit` trains it for one memory after the other."""

    def __init__(self, path: Path, settings: TrainSettings) -> None:
        """Load the checkpoint at `path`.

        Raises:
            ModelError: it cannot be loaded, or does not have the layers that `settings` asks for.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype="auto", attn_implementation="eager"
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
        known, step, loss = 0, 0, float("nan")
        for step in range(1, self.settings.max_steps + 1):
            drawn = examples.draw(self.settings.batch)
            batch = collate([encode(self.tokenizer, e, self.end_ids) for e in drawn], self.end_ids[0])
            recall = torch.tensor([e.recall for e in drawn])
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * min(1.0, step / WARMUP)
            loss, sure = self._step(batch, recall)
            known = known + 1 if sure else 0
            if known == PATIENCE:
                break
            optimizer.step()
            optimizer.zero_grad()
        optimizer.zero_grad()
        return Fit(self.stack.tensors(), step, loss, known == PATIENCE, time.perf_counter() - started)

    def _step(self, batch: Batch, recall: Tensor) -> tuple[float, bool]:
        """Gradients of one batch; its loss, and whether every recall example of it was known before."""
        logp = self._log_probs(batch)
        loss = -logp.mean()
        if not torch.isfinite(loss):
            raise TrainingError("the loss is not finite; choose a smaller learning rate")
        loss.backward()  # type: ignore[no-untyped-call]
        rows = (batch.labels != IGNORE).nonzero()[:, 0]
        return loss.item(), bool((logp.detach()[recall[rows]].exp() > SURE).all())

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
