"""What an evaluation found, and report.json; `page` has the same for people."""

from __future__ import annotations

from typing import Any

import msgspec

OURS = "direct"
"""The way that stands for all that the memories do by themselves: recall, general ability."""
NAMES = {
    "base": "base model",
    "rag_top1": "RAG, best text",
    "rag_top3": "RAG, best three",
    "rag_top2": "RAG, best two",
    "direct": "memories, direct",
    "irag": "memories, irag",
    "text": "memories, text",
    "both": "memories, text and adapter",
    "top1_adapter": "best memory alone, no mixing",
    "sequential_lora": "one LoRA, memory after memory",
    "joint_lora": "one LoRA, all memories at once",
    "gated": "memories, through the gate",
    "forced": "one memory forced on, all the weight",
}
"""Of all ways, for people."""


class Way(msgspec.Struct, frozen=True):
    """One way of answering."""

    strict: float
    lenient: float
    tokens: float
    """Of an answer, on average."""
    answers: list[str]
    judge: float | None = None
    """What the user's judge says; None: there is none."""


class Gate(msgspec.Struct, frozen=True):
    """The right memory among all."""

    questions: int
    top1: float
    mrr: float
    closed: float
    """Questions whose best score is below the threshold: the base model answers them."""
    right_scores: list[float] = []
    """For each question the score of its own memory."""
    wrong_scores: list[float] = []
    """For each question the best score of another memory; empty if there is none."""


class Recall(msgspec.Struct, frozen=True):
    """Memories, reconstructed."""

    cosine: float
    exact: float


class NullRoute(msgspec.Struct, frozen=True):
    """Prompts that no memory is about."""

    prompts: int
    opened: float
    """Share for which a memory was used nevertheless."""
    identical: bool
    """Whether all others got the very tokens of the base model."""
    opened_prompts: list[str]
    scores: list[float] = []
    """For each prompt the best score of any memory."""


class Compositional(msgspec.Struct, frozen=True):
    """Questions that need two memories."""

    questions: int
    both_found: float
    """Share whose memories are all in the mixture."""
    ways: dict[str, Way]


class Forgetting(msgspec.Struct, frozen=True):
    """The first memories after some others have been learnt."""

    after: int
    """How many others."""
    recall_cosine: float
    exact: float
    right: float
    """Share of questions for which the gate gives the memory the largest weight."""
    sequential_lora_cosine: float | None = None
    """The very first memory, recalled by one LoRA that learnt the others after it."""
    sequential_lora_exact: float | None = None


class General(msgspec.Struct, frozen=True):
    """What has nothing to do with any memory."""

    accuracy: float
    """Of questions with answers to choose from."""
    log_likelihood: float
    """Of plain text, nats a token."""
    opened: float | None = None
    """Share of questions and paragraphs for which the gate used a memory; None: no gate."""


class Baseline(msgspec.Struct, frozen=True):
    """What training one LoRA for all memories took."""

    rank: int
    steps: int
    loss: float
    """Of the last step: whether there was something left to learn."""
    seconds: float
    bytes: int


class Cost(msgspec.Struct, frozen=True):
    """What a memory costs."""

    seconds_per_memory: float
    bytes_per_memory: float
    share_of_base: float
    """Bytes of a memory, of those of the base model."""
    latency_ms: dict[str, float] = {}
    """Of one request at a time, median, by way."""
    baselines: dict[str, Baseline] = {}


class Report(msgspec.Struct, frozen=True):
    """All figures of an evaluation: what report.json says."""

    model: str
    embedder: str
    n_memories: int
    ways: dict[str, Way]
    gate: Gate
    recall: dict[str, Recall]
    """By way; `OURS` is the memories'."""
    null_route: NullRoute | None
    """None: no unrelated prompts were given."""
    compositional: Compositional | None
    """None: no such questions were given, or none about these memories."""
    forgetting: list[Forgetting]
    general: dict[str, General]
    cost: Cost
    settings: dict[str, Any] = {}
    """Of gate and training."""
    environment: dict[str, Any] = {}
    """What the seconds depend on."""

    def figures(self) -> dict[str, Any]:
        """What report.json says: the strict rates as `qa`, the lenient ones as `qa_lenient`."""
        rest = msgspec.to_builtins(self)
        del rest["ways"]
        rest["recall"] = {**rest["recall"][OURS], "by_way": rest["recall"]}
        if self.compositional is not None:
            del rest["compositional"]["ways"]
            rest["compositional"].update(_rates(self.compositional.ways))
        tokens = {name: way.tokens for name, way in self.ways.items()}
        return {**rest, **_rates(self.ways), "tokens_per_answer": tokens}


def _rates(ways: dict[str, Way]) -> dict[str, dict[str, float]]:
    rates = {
        "qa": {name: way.strict for name, way in ways.items()},
        "qa_lenient": {name: way.lenient for name, way in ways.items()},
    }
    judged = {name: way.judge for name, way in ways.items() if way.judge is not None}
    return {**rates, "qa_judge": judged} if judged else rates
