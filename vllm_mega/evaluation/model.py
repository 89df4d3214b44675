"""What answers, as the tasks see it, and the words in which they ask. No engine here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vllm_mega.evaluation.report import Baseline
from vllm_mega.gate.gate import Decision
from vllm_mega.prompts import Message

How = Mapping[str, Any] | Path
"""With which memory: the request field `mega`, or the folder of a plain LoRA adapter."""

OFF: Mapping[str, Any] = {"mode": "off"}
"""The base model."""
SEQUENTIAL, JOINT = "sequential_lora", "joint_lora"


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str
    token_ids: tuple[int, ...]


class Text(NamedTuple):
    """A text whose probability is asked for."""

    before: str
    """What stands before it and is not counted; may be empty."""
    text: str


class Likelihood(NamedTuple):
    """How probable a text is."""

    total: float
    """Sum of the natural logarithms of its tokens' probabilities."""
    tokens: int
    """That were counted: the first one of a text that nothing stands before has no probability."""


class Model(Protocol):
    """The language model that the evaluation asks, with memories or without."""

    def ask(self, conversations: Sequence[list[Message]], how: Sequence[How], max_tokens: int) -> list[Reply]:
        """Greedy answers; `how` for each conversation."""
        ...

    def likelihoods(self, texts: Sequence[Text], how: Sequence[How]) -> list[Likelihood]:
        """Raw texts, without chat format; `how` for each: `OFF`, explicit memories or an adapter."""
        ...


@dataclass(frozen=True)
class Baselines:
    """Adapters that memories are compared with: one LoRA for all memories (see module `baselines`)."""

    checkpoints: Mapping[int, Path] = field(default_factory=dict)
    """Of the sequential one, by how many other memories it has learnt after the first."""
    joint: Path | None = None
    costs: Mapping[str, Baseline] = field(default_factory=dict)

    @property
    def adapters(self) -> dict[str, Path]:
        """Those that answer questions, by way."""
        last = self.checkpoints[max(self.checkpoints)] if self.checkpoints else None
        return {name: path for name, path in ((SEQUENTIAL, last), (JOINT, self.joint)) if path is not None}

    @property
    def largest_rank(self) -> int:
        """What slots must have room for; 0: there are none."""
        return max((cost.rank for cost in self.costs.values()), default=0)


def always(how: How) -> Callable[..., How]:
    """The same for whatever is asked."""
    return lambda *_: how


def chosen(decision: Decision, mode: str = "adapter") -> Mapping[str, Any]:
    """The request field that asks for the gate's own choice."""
    return mixed([(hit.id, hit.weight) for hit in decision.hits], mode)


def gated(mode: str) -> Mapping[str, Any]:
    """The request field that lets the engine's own gate choose: also which memories are read."""
    return {"mode": mode}


def mixed(memories: Sequence[tuple[str, float]], mode: str = "adapter") -> Mapping[str, Any]:
    """The request field that asks for these memories with these weights; none: the base model."""
    if not memories:
        return OFF
    return {"mode": mode, "memories": [{"id": name, "weight": weight} for name, weight in memories]}


def only(memory_id: str, mode: str = "adapter") -> Mapping[str, Any]:
    """The request field that asks for one memory with its whole weight."""
    return mixed([(memory_id, 1.0)], mode)
