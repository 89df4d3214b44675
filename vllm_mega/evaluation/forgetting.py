"""Whether what was learnt first is still known after others have been learnt.

Our memories are adapters of their own, so learning others can take nothing from them; what can go wrong is
the gate, which has more to choose from. So the first memories are recalled with a gate that knows them and
k others. One LoRA that is trained memory after memory is asked for the very first after k others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vllm_mega.bank.catalog.drafts import key_array
from vllm_mega.bank.library import Library
from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings
from vllm_mega.errors import BankError
from vllm_mega.evaluation.data import Item
from vllm_mega.evaluation.model import Model, mixed
from vllm_mega.evaluation.report import Forgetting
from vllm_mega.evaluation.tasks import RECALL_TOKENS, recalled
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.selection import select, similarity
from vllm_mega.mixture import WEIGHT_STEPS
from vllm_mega.prompts import about_prompt, user
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import subject

AFTER = (0, 1, 5, 10, 25, 50)
TRACKED = 3
"""How many memories are followed, each as if it had been the first: one alone says little."""


def counts(memories: int) -> list[int]:
    """After how many others is looked, when there are `memories` in all."""
    return sorted({k for k in AFTER if k < memories} | {memories - 1})


def among(
    keys: npt.NDArray[np.float32],
    ids: Sequence[str],
    query: npt.NDArray[np.float32],
    settings: GateSettings,
) -> list[tuple[str, float]]:
    """What a gate that knows only these memories chooses: (id, weight), heaviest first.

    Args:
        keys: [n, D], a row for each of `ids`.
        ids: of the memories.
        query: [D]
        settings: of the gate.
    """
    return [(ids[i], n / WEIGHT_STEPS) for i, n in select(similarity(keys, query), ids, settings)]


@dataclass(frozen=True)
class _Request:
    """One recall of a followed memory."""

    after: int
    item: Item
    question: str
    memories: list[tuple[str, float]]

    @property
    def key(self) -> tuple[str, bytes]:
        """Two with the same key are one request: the engine is asked once."""
        return self.question, msgspec.json.encode(self.memories)

    @property
    def right(self) -> bool:
        return bool(self.memories) and self.memories[0][0] == self.item.id


def forgetting(
    items: Sequence[Item],
    library: Library,
    embedder: Embedder,
    settings: GateSettings,
    model: Model,
    checkpoints: Mapping[int, Path],
) -> list[Forgetting]:
    """The curve; `checkpoints` are the sequential LoRA's adapters, by how many others it has learnt."""
    requests = _requests(items, library, embedder, settings)
    unique = {request.key: request for request in requests}
    replies = model.ask(
        [user(request.question) for request in unique.values()],
        [mixed([(name, 1.0) for name, _ in request.memories[:1]], "recall") for request in unique.values()],
        RECALL_TOKENS,
    )
    by_key = dict(zip(unique, replies, strict=True))
    sequential = {k: _sequential(items[0], path, embedder, model) for k, path in checkpoints.items()}
    curve = []
    for k in counts(len(items)):
        some = [request for request in requests if request.after == k]
        recall = recalled([by_key[r.key] for r in some], [r.item.text for r in some], embedder)
        right = float(np.mean([request.right for request in some]))
        curve.append(Forgetting(k, recall.cosine, recall.exact, right, **sequential.get(k, {})))
    return curve


def _requests(
    items: Sequence[Item], library: Library, embedder: Embedder, settings: GateSettings
) -> list[_Request]:
    """The followed memories' questions, with what a gate of them and k others chooses."""
    keys = np.stack([_key(library, item) for item in items])
    requests = []
    for start, item in enumerate(items[:TRACKED]):
        order = [(start + n) % len(items) for n in range(len(items))]
        for question, query in zip(item.questions, embedder.embed(item.questions), strict=True):
            for k in counts(len(items)):
                known = order[: k + 1]
                memories = among(keys[known], [items[i].id for i in known], query, settings)
                requests.append(_Request(k, item, question, memories))
    return requests


def _key(library: Library, item: Item) -> npt.NDArray[np.float32]:
    """The key [D] of a memory.

    Raises:
        BankError: it has none.
    """
    key = library.version(library.get(DEFAULT_NAMESPACE, item.id)).key
    if key is None:
        raise BankError(f"the memory {item.id} has no key: update it, so that it gets one")
    return key_array(key)


def _sequential(item: Item, path: Path, embedder: Embedder, model: Model) -> dict[str, Any]:
    replies = model.ask(
        [user(about_prompt(subject(item.memory, Recipe())))],
        [path],
        RECALL_TOKENS,
    )
    recall = recalled(replies, [item.text] * len(replies), embedder)
    return {"sequential_lora_cosine": recall.cosine, "sequential_lora_exact": recall.exact}
