"""`MegaLLM`: vLLM's offline `LLM`, with memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from vllm_mega.bank.library import Library, check_match
from vllm_mega.config import MegaSettings, Mode, settings_from
from vllm_mega.contract.checking import require
from vllm_mega.engine.adapters import mixture_of, to_lora_request
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.holding import Holder
from vllm_mega.engine.upstream.of_starting import OFFLINE
from vllm_mega.errors import BankError, MegaError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.hook.opening import gate_embedder, gate_over
from vllm_mega.http import launch
from vllm_mega.models import fingerprint, resolve_recorded
from vllm_mega.models.control_tokens import control_tokens
from vllm_mega.offline_chat import Answered, Chat, answered
from vllm_mega.requests.conversation import Message
from vllm_mega.requests.deciding import Ask, decide
from vllm_mega.requests.describing import describe
from vllm_mega.requests.passes import Recital, first_passes, last_pass, recalled
from vllm_mega.requests.schemas import Plan, Start, make_plan, refuse_tools
from vllm_mega.requests.start import check_chat, check_texts
from vllm_mega.requests.wellformed import usual_messages

DEFAULT_SAMPLING = SamplingParams(temperature=0.0, max_tokens=256)
Conversation = Sequence[Message]
PATIENCE = 30.0
"""Seconds that the engine has to end; it takes about 5, after which vLLM would kill it."""


@dataclass(frozen=True)
class MegaAnswer:
    """An answer, and the memory it came from."""

    text: str
    mega: dict[str, Any]
    """As in a server's response: memories with weights and scores, mode, best_score, namespace."""
    output: Any
    """VLLM's RequestOutput."""


class MegaLLM:
    """A `vllm.LLM` whose prompts are answered with the memories of a bank.

    The same text gets the same mixture as from a server. What changes in the bank is seen at once.

    Args:
        bank: the bank.
        model: base model (name, path or Hugging Face id); None: the bank's.
        catalog: URL of the bank's catalog (postgresql+psycopg://user@host/database); None: in its folder.
        settings: as `MegaSettings` has them (mode, namespace, gate, embedder, window, dialogue),
            but for bank and catalog.
        llm_kwargs: for `vllm.LLM`; they win over what follows from the bank.

    Raises:
        BankError, ModelError, ConfigError: bank, model and settings do not go together.
        UpstreamError: vLLM is not the one that this was written for.

    Example::

        with MegaLLM("bank", settings={"mode": "irag"}, enforce_eager=True) as llm:
            for answer in llm.chat(["Who built the lighthouse?"]):
                print(answer.text, answer.mega["memories"])
    """

    _control: frozenset[str] = frozenset()

    def __init__(
        self,
        bank: Path | str,
        model: str | None = None,
        *,
        catalog: str | None = None,
        settings: Mapping[str, Any] | None = None,
        **llm_kwargs: Any,
    ) -> None:
        require(OFFLINE)
        where = {"bank": str(Path(bank).absolute()), "catalog": catalog}
        self.settings = settings_from({**(settings or {}), **where}, MegaSettings)
        with Library(self.settings.bank, catalog) as library:
            path = resolve_recorded(model, library.settings.base.name)
            check_match(library.root, library.settings, fingerprint(path), None)
            options = launch.engine_options(library, self.settings, path, llm_kwargs)
        self._slots = int(llm_kwargs["max_loras"] if "max_loras" in llm_kwargs else options["max_loras"])
        trusted = bool(llm_kwargs.get("trust_remote_code"))
        embedder = gate_embedder(self.settings, path, self._slots, trust_remote_code=trusted)
        environment = launch.this_environment(llm_kwargs)
        if "VLLM_PLUGINS" not in os.environ:
            del environment["VLLM_PLUGINS"]  # unset means all, ours among them
        os.environ.update(environment)
        self.llm = LLM(str(path), **{**llm_kwargs, **options})
        self._gate = gate_over(self.settings, embedder)  # now, since vLLM may have forked
        self._control = control_tokens(self.llm.get_tokenizer())
        self._checks = AdapterChecks.of(self.llm.llm_engine.vllm_config)
        self._holder = Holder()

    @property
    def library(self) -> Library:
        """The bank, as the gate knows it; closed with this object."""
        return self._gate.library

    def close(self) -> None:
        """End the engine's processes, instead of leaving them to the end of this one, and close the bank."""
        self._gate.close()
        self.llm.llm_engine.engine_core.shutdown(timeout=PATIENCE)

    def __enter__(self) -> MegaLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chat(
        self,
        conversations: Sequence[str | Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] = DEFAULT_SAMPLING,
        *,
        mode: Mode | None = None,
        mega: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        use_tqdm: bool = False,
    ) -> list[MegaAnswer]:
        """Answer conversations, all in one run of the engine (mode `irag`: two).

        Args:
            conversations: each a question, or messages with role and content.
            sampling_params: for all, or one each.
            mode: for those that `mega` gives none.
            mega: the request field `mega`, for all or one each.
            use_tqdm: whether to show progress.

        Raises:
            RequestError: a request that cannot be right.
            BankError: a memory that is not there, or cannot be used.
            MegaError: as above; a note says which conversation. Then nothing has been run.
        """
        messages = [self._messages(i, c) for i, c in enumerate(conversations)]
        plans = self._plans(len(messages), mode, mega)
        decisions = self._decide(messages, plans)
        self._check(decisions)
        for plan, decision in zip(plans, decisions, strict=True):
            if plan.asks_gate:
                self._gate.used(decision)
        starts = [plan.start for plan in plans]
        recited = self._recite(self._recitals(messages, plans, decisions), starts, use_tqdm)
        contexts = [recalled(*each, self._control) for each in zip(decisions, recited, strict=True)]
        lasts = list(map(last_pass, plans, decisions, messages, contexts))
        loras = [to_lora_request(last.mixture) for last in lasts]
        asked = [last.messages for last in lasts]
        read = [last.context for last in lasts]
        answers = self.answers(asked, sampling_params, use_tqdm, loras, starts, read) if asked else []
        return [
            MegaAnswer(output.outputs[0].text, describe(plan, decision, start, context), output)
            for plan, decision, context, (output, start) in zip(
                plans, decisions, contexts, answers, strict=True
            )
        ]

    def answers(
        self,
        conversations: Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams],
        use_tqdm: bool,
        loras: Sequence[LoRARequest | None],
        starts: Sequence[Start | None] | None = None,
        contexts: Sequence[str | None] | None = None,
    ) -> list[Answered]:
        """What vLLM answers with these adapters, without a gate, in the template of the bank.

        Args:
            conversations: messages.
            sampling_params: for all, or one each.
            use_tqdm: whether to show progress.
            loras: mixtures; None: the base model.
            starts: from where each acts; None: from where the question begins.
            contexts: what stands in the last user message of each before the question; None: nothing does.

        Returns:
            For each vLLM's RequestOutput, and the token from which its mixture acted.

        Raises:
            RequestError: a prompt does not have this start.
            BankError: an adapter was found damaged after it had been checked.
        """
        n = len(conversations)
        sampling = [sampling_params] * n if isinstance(sampling_params, SamplingParams) else sampling_params
        nothing = [None] * n
        each = zip(conversations, sampling, loras, starts or nothing, contexts or nothing, strict=True)
        answers = answered(self.llm, [Chat(*parts) for parts in each], use_tqdm)
        for (output, _), lora in zip(answers, loras, strict=True):
            if output.outputs[0].finish_reason == "error":
                raise BankError(f"the engine has ended an answer: {self._wrong(lora) or 'its log says why'}")
        return answers

    def _wrong(self, lora: LoRARequest | None) -> str:
        """What is wrong with the adapters now: the engine looks once more when it needs them."""
        mixture = mixture_of(lora) if lora else None
        checks = [self._checks.begin(c, afresh=True) for c in (mixture.components if mixture else ())]
        return next(filter(None, (check.result() for check in checks)), "")

    def _recite(
        self, recitals: Sequence[Sequence[Recital]], starts: Sequence[Start | None], use_tqdm: bool
    ) -> list[list[str]]:
        """What is recited for each conversation; all of it in one run of the engine."""
        runs = [(recital, start) for some, start in zip(recitals, starts, strict=True) for recital in some]
        if not runs:
            return [[] for _ in recitals]
        answers = self.answers(
            [recital.messages for recital, _ in runs],
            [SamplingParams(temperature=0.0, max_tokens=recital.tokens) for recital, _ in runs],
            use_tqdm,
            [to_lora_request(recital.mixture) for recital, _ in runs],
            [start for _, start in runs],
        )
        texts = iter([output.outputs[0].text for output, _ in answers])
        return [list(islice(texts, len(some))) for some in recitals]

    def _recitals(
        self, messages: Sequence[Conversation], plans: Sequence[Plan], decisions: Sequence[Decision]
    ) -> list[list[Recital]]:
        longest = self.llm.model_config.max_model_len
        passes = []
        for i, each in enumerate(zip(plans, decisions, messages, strict=True)):
            try:
                check_texts(plans[i], decisions[i])
                passes.append(first_passes(*each, longest))
            except RequestError as error:
                error.add_note(f"in conversation {i}")
                raise
        return passes

    @staticmethod
    def _messages(number: int, given: str | Conversation) -> list[dict[str, Any]]:
        try:
            return usual_messages([{"role": "user", "content": given}] if isinstance(given, str) else given)
        except RequestError as error:
            error.add_note(f"in conversation {number}")
            raise

    def _plans(
        self, n: int, mode: Mode | None, mega: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    ) -> list[Plan]:
        each = [mega] * n if mega is None or isinstance(mega, Mapping) else list(mega)
        if len(each) != n:
            raise RequestError(f"{n} conversations, but {len(each)} requests in mega", "mega")
        default = {} if mode is None else {"mode": mode}
        plans = []
        for i, request in enumerate(each):
            try:
                plans.append(make_plan({**default, **(request or {})}, self.settings, self._slots))
                check_chat(plans[-1])
                refuse_tools(plans[-1])
            except MegaError as error:
                error.add_note(f"in conversation {i}")
                raise
        return plans

    def _decide(self, messages: Sequence[Conversation], plans: Sequence[Plan]) -> list[Decision]:
        asks = [Ask.about(plan, m, self.settings) for plan, m in zip(plans, messages, strict=True)]
        decisions = []
        for i, answer in enumerate(decide(self._gate, asks, self._slots)):
            if isinstance(answer, Exception):
                answer.add_note(f"in conversation {i}")
                raise answer
            decisions.append(replace(answer, mixture=self._holder.hold(answer.mixture)))
        return decisions

    def _check(self, decisions: Sequence[Decision]) -> None:
        """Refuse adapters that are not good: the engine could not tell once it runs."""
        checks = [[self._checks.begin(c) for c in d.mixture.components] for d in decisions]
        for i, decision in enumerate(decisions):
            wrong = next(filter(None, (check.result() for check in checks[i])), "")
            if wrong:
                ids = ", ".join(hit.id for hit in decision.hits)
                raise BankError(f"conversation {i}: the memories ({ids}) cannot be used: {wrong}")
