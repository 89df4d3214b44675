"""`MegaLLM`: vLLM's offline `LLM`, with memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from vllm_mega.bank.reader import BankReader
from vllm_mega.config import MegaSettings, Mode, settings_from
from vllm_mega.contract.checking import require
from vllm_mega.engine.adapters import mixture_of, to_lora_request
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.holding import Holder
from vllm_mega.engine.upstream.of_starting import OFFLINE
from vllm_mega.errors import BankError, MegaError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.models import fingerprint, resolve_recorded
from vllm_mega.models.control_tokens import control_tokens
from vllm_mega.serving import conversation, launch
from vllm_mega.serving.conversation import Message
from vllm_mega.serving.deciding import Ask, decide, describe, reading, recitals
from vllm_mega.serving.offline_chat import Answered, Chat, answered
from vllm_mega.serving.opening import open_gate
from vllm_mega.serving.schemas import Plan, Start, make_plan
from vllm_mega.serving.starting import check_chat
from vllm_mega.serving.wellformed import usual_messages

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

    The same text gets the same mixture as from a server. The bank is read again when it has changed.

    Args:
        bank: the bank.
        model: base model (name, path or Hugging Face id); None: the bank's.
        settings: as `MegaSettings` has them (mode, namespace, gate, embedder, window, dialogue),
            but for the bank.
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
        settings: Mapping[str, Any] | None = None,
        **llm_kwargs: Any,
    ) -> None:
        require(OFFLINE)
        self.settings = settings_from({**(settings or {}), "bank": str(Path(bank).absolute())}, MegaSettings)
        path = resolve_recorded(model, BankReader(bank).snapshot().manifest.base.name)
        snapshot = BankReader(bank, base_fingerprint=fingerprint(path)).snapshot()
        options = launch.engine_options(snapshot, self.settings, path, llm_kwargs)
        self._slots = int(llm_kwargs["max_loras"] if "max_loras" in llm_kwargs else options["max_loras"])
        trusted = bool(llm_kwargs.get("trust_remote_code"))
        self._gate = open_gate(self.settings, path, self._slots, trust_remote_code=trusted)
        environment = launch.this_environment(llm_kwargs)
        if "VLLM_PLUGINS" not in os.environ:
            del environment["VLLM_PLUGINS"]  # unset means all, ours among them
        os.environ.update(environment)
        self.llm = LLM(str(path), **{**llm_kwargs, **options})
        self._control = control_tokens(self.llm.get_tokenizer())
        self._checks = AdapterChecks.of(self.llm.llm_engine.vllm_config)
        self._holder = Holder()

    def close(self) -> None:
        """End the engine's processes, instead of leaving them to the end of this one."""
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
        loras = self._checked(decisions)
        used = [p.mode if d.mixture else "off" for p, d in zip(plans, decisions, strict=True)]
        irag = [i for i, how in enumerate(used) if how == "irag"]
        starts = [plan.start for plan in plans]
        recalled = self._recall(
            {i: conversation.recall_request(messages[i]) for i in irag}, decisions, starts, use_tqdm
        )
        for i, how in enumerate(used):
            if how == "recall":
                messages[i] = conversation.recall_messages(messages[i])
            elif how == "irag":
                messages[i] = conversation.informed_messages(messages[i], recalled[i])
                loras[i] = to_lora_request(reading(decisions[i]))
        answers = self.answers(messages, sampling_params, use_tqdm, loras, starts) if messages else []
        return [
            MegaAnswer(
                output.outputs[0].text, describe(plans[i], decisions[i], start, recalled.get(i)), output
            )
            for i, (output, start) in enumerate(answers)
        ]

    def answers(
        self,
        conversations: Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams],
        use_tqdm: bool,
        loras: Sequence[LoRARequest | None],
        starts: Sequence[Start | None] | None = None,
    ) -> list[Answered]:
        """What vLLM answers with these adapters, without a gate, in the template of the bank.

        Args:
            conversations: messages.
            sampling_params: for all, or one each.
            use_tqdm: whether to show progress.
            loras: mixtures; None: the base model.
            starts: from where each acts; None: from where the last user message begins.

        Returns:
            For each vLLM's RequestOutput, and the token from which its mixture acted.

        Raises:
            RequestError: a prompt does not have this start.
            BankError: an adapter was found damaged after it had been checked.
        """
        n = len(conversations)
        sampling = [sampling_params] * n if isinstance(sampling_params, SamplingParams) else sampling_params
        each = zip(conversations, sampling, loras, starts or [None] * n, strict=True)
        answers = answered(self.llm, [Chat(*one) for one in each], use_tqdm)
        for (output, _), lora in zip(answers, loras, strict=True):
            if output.outputs[0].finish_reason == "error":
                raise BankError(f"the engine has ended an answer: {self._wrong(lora) or 'its log says why'}")
        return answers

    def _wrong(self, lora: LoRARequest | None) -> str:
        """What is wrong with the adapters now: the engine looks once more when it needs them."""
        mixture = mixture_of(lora) if lora else None
        checks = [self._checks.begin(c, afresh=True) for c in (mixture.components if mixture else ())]
        return next(filter(None, (check.result() for check in checks)), "")

    def _recall(
        self,
        asked: Mapping[int, Conversation],
        decisions: Sequence[Decision],
        starts: Sequence[Start | None],
        use_tqdm: bool,
    ) -> dict[int, str]:
        """First step of irag: what the memories hold, by conversation; all in one run of the engine."""
        if not asked:
            return {}
        longest = self.llm.model_config.max_model_len
        runs = []
        for i in asked:
            mixtures = recitals(decisions[i])
            greedy = SamplingParams(
                temperature=0.0, max_tokens=conversation.recall_tokens(longest, len(mixtures))
            )
            runs += [(i, greedy, to_lora_request(mixture)) for mixture in mixtures]
        numbers, sampling, loras = zip(*runs, strict=True)
        answers = self.answers(
            [asked[i] for i in numbers], list(sampling), use_tqdm, list(loras), [starts[i] for i in numbers]
        )
        texts: dict[int, list[str]] = {i: [] for i in asked}
        for i, (output, _) in zip(numbers, answers, strict=True):
            texts[i].append(output.outputs[0].text)
        return {i: conversation.context_of(found, self._control) for i, found in texts.items()}

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
            if answer.mixture and plans[i].mode in ("recall", "irag"):
                conversation.question_of(messages[i])
            decisions.append(replace(answer, mixture=self._holder.hold(answer.mixture)))
        return decisions

    def _checked(self, decisions: Sequence[Decision]) -> list[LoRARequest | None]:
        """The LoRARequests, their adapters known to be good: the engine could not tell once it runs."""
        checks = [[self._checks.begin(c) for c in d.mixture.components] for d in decisions]
        for i, decision in enumerate(decisions):
            wrong = next(filter(None, (check.result() for check in checks[i])), "")
            if wrong:
                ids = ", ".join(hit.id for hit in decision.hits)
                raise BankError(f"conversation {i}: the memories ({ids}) cannot be used: {wrong}")
        return [to_lora_request(decision.mixture) for decision in decisions]
