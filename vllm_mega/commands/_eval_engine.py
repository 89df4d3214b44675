"""The model behind `vllm-mega eval`: vLLM in this process, as `MegaLLM` runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.library import Library
from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings
from vllm_mega.evaluation.model import OFF, How, Likelihood, Reply, Text
from vllm_mega.mixture import EMPTY, Mixture
from vllm_mega.prompts import Message, spoken


class Engine:
    """The `vllm_mega.evaluation.model.Model` that an evaluation asks: vLLM with a bank."""

    def __init__(
        self,
        bank: Path,
        model: str | None,
        embedder: str | None,
        gate: GateSettings,
        rank: int,
        system: str = "",
        catalog: str | None = None,
    ) -> None:
        """Start vLLM with a bank.

        Args:
            bank: of the memories.
            model: base model; None: the bank's.
            embedder: of the gate; None: the bank's.
            gate: settings.
            rank: the largest of any baseline's adapter, 0 if there is none.
            system: a system prompt that all conversations begin with; empty: none.
            catalog: URL of the bank's catalog, if it is not in its folder.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm_mega.http.launch import slot_rank
        from vllm_mega.offline import MegaLLM

        with Library(bank, catalog) as library:
            largest = max(rank, library.adapters().rank)
        settings = {"gate": msgspec.to_builtins(gate), "embedder": embedder}
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._llm = MegaLLM(
            bank,
            model,
            catalog=catalog,
            settings=settings,
            max_model_len=4096 if system else 2048,
            # A cached beginning is added up in another order, which in bfloat16 could change a token; but
            # without a cache a long system prompt takes most of the time.
            enable_prefix_caching=bool(system),
            max_lora_rank=slot_rank(largest),
        )

    def close(self) -> None:
        """End the engine, and close the bank."""
        self._llm.close()

    def ask(self, conversations: Sequence[list[Message]], how: Sequence[How], max_tokens: int) -> list[Reply]:
        """See `Model.ask`."""
        from vllm_mega.offline import DEFAULT_SAMPLING
        from vllm_mega.requests.schemas import Start

        greedy = DEFAULT_SAMPLING.clone()
        greedy.max_tokens = max_tokens
        conversations = [self._opening + conversation for conversation in conversations]
        plain = [n for n, way in enumerate(how) if isinstance(way, Path)]
        gated = {n: way for n, way in enumerate(how) if not isinstance(way, Path)}
        bar = len(conversations) > 1
        outputs: dict[int, Any] = {}
        if gated:
            some = [conversations[n] for n in gated]
            answers = self._llm.chat(some, greedy, mega=[*gated.values()], use_tqdm=bar)
            outputs.update(zip(gated, (answer.output for answer in answers), strict=True))
        if plain:
            loras = [self._request(how[n]) for n in plain]
            some = [conversations[n] for n in plain]
            # Baselines are plain adapters: trained, and served by vLLM, from the first token on.
            plainly = self._llm.answers(some, greedy, bar, loras, [Start(token=0)] * len(plain))
            outputs.update(zip(plain, (output for output, _ in plainly), strict=True))
        replies = (outputs[n].outputs[0] for n in range(len(conversations)))
        return [Reply(spoken(reply.text), tuple(reply.token_ids)) for reply in replies]

    def likelihoods(self, texts: Sequence[Text], how: Sequence[How]) -> list[Likelihood]:
        """See `Model.likelihoods`: the engine tells the probabilities of the tokens that it is given."""
        from vllm_mega.offline import DEFAULT_SAMPLING

        scoring = DEFAULT_SAMPLING.clone()
        scoring.max_tokens, scoring.prompt_logprobs = 1, 0
        tokenizer = self._llm.llm.get_tokenizer()
        ids = [tokenizer.encode(text.before + text.text) for text in texts]
        begin = [max(1, len(tokenizer.encode(text.before))) if text.before else 1 for text in texts]
        outputs = self._llm.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in ids],
            scoring,
            use_tqdm=True,
            lora_request=[self._request(way) for way in how],
        )
        return [
            counted(output.prompt_logprobs, prompt, start)
            for output, prompt, start in zip(outputs, ids, begin, strict=True)
        ]

    def _request(self, how: How) -> Any:
        """How vLLM is asked; an adapter alone with weight 1 is what a plain LoRA request computes."""
        from vllm_mega.engine.adapters import to_lora_request

        return to_lora_request(self._mixture(how))

    def _mixture(self, how: How) -> Mixture:
        if isinstance(how, Path):
            return Mixture([(_digest(how), str(how.absolute()), 1.0)])
        if how is OFF:
            return EMPTY
        library = self._llm.library
        return Mixture(
            library.component(library.get(DEFAULT_NAMESPACE, memory["id"]), memory["weight"])
            for memory in how["memories"]
        )


_digest = cache(adapter_digest)


def counted(logprobs: Sequence[Mapping[int, Any] | None], ids: Sequence[int], start: int) -> Likelihood:
    """The log-probabilities of `ids` from position `start` on, added up.

    Args:
        logprobs: for each position those of some tokens, that of the text among them; None: the first.
        ids: the tokens of the text.
        start: at least 1.
    """
    some = [float(logprobs[n][token].logprob) for n, token in enumerate(ids) if n >= start]  # type: ignore[index]
    return Likelihood(sum(some), len(some))
