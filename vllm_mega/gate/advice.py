"""What the owner of a bank should know of its memories and embedder, though nothing refuses them.

Names memories, never their texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vllm_mega.bank.catalog.keys import BankKeys
from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import GateSettings
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.spread import spread, unrelated_scores
from vllm_mega.gate.twins import near
from vllm_mega.gate.vectors import Vectors

FEW_WORDS = 4
"""Texts of so few words are near to all that shares one of them: "Call Mum" to "Call a taxi", with 0.46."""
CROWDED = 0.9
"""Of unrelated prompts so many must lie below the threshold, each compared with all others."""
_SHOWN = 10
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|\w+")
"""Chinese and Japanese write no spaces: there a character counts."""


def crowded(embedder: Embedder, settings: GateSettings) -> str | None:
    """Whether nearly everything is near for `embedder`, measured on unrelated prompts; None: it is not."""
    scores = unrelated_scores(embedder)
    usual, high = np.quantile(scores, [0.5, CROWDED])
    if high < settings.threshold:
        return None
    return (
        f"for the embedder {embedder.info.name} everything is near: prompts that have nothing to do with "
        f"each other score {usual:.2f} (median), {scores.max():.2f} at most, and the threshold is "
        f"{settings.threshold:g}, so that memories answer what is not about them. Use a sentence encoder "
        "(--embedder), or raise --threshold above these scores and look at yours with vllm-mega gate"
    )


def advice(
    memories: Sequence[NewMemory], keys: Vectors, embedder: Embedder, there: BankKeys | None
) -> list[str]:
    """What should be known of `memories` before they are trained, a line for each kind.

    Args:
        memories: N of them, to be trained.
        keys: of them, float32 [N, D].
        embedder: that made the keys.
        there: what they are added to; None: the bank is to be made.
    """
    names = [_name(memory) for memory in memories]
    read = [bool(embedder.passages(memory.text)) for memory in memories]
    unread = [name for name, can in zip(names, read, strict=True) if not can]
    short = [n for n, m in zip(names, memories, strict=True) if len(_WORD.findall(m.text)) <= FEW_WORDS]
    kinds = {
        f"the embedder {embedder.info.name} cannot read these memories, so no question finds them; use one "
        "that knows their script (--embedder; docs/memories.md names one)": unread,
        f"these memories have {FEW_WORDS} words or fewer, and texts so short are near to much that is not "
        "about them: write a sentence with names": short,
        "these memories nearly coincide; asked about either, the newer answers. To change a memory, give its "
        "id with the new text, or forget the old one (vllm-mega bank forget)": _twins(
            [memory for memory, can in zip(memories, read, strict=True) if can],
            keys[np.array(read, bool)],
            there,
            spread(embedder),
        ),
    }
    return [f"{why}: {_listed(some)}" for why, some in kinds.items() if some]


def _twins(memories: Sequence[NewMemory], keys: Vectors, bank: BankKeys | None, spread: float) -> list[str]:
    """Pairs of a namespace that nearly coincide: of `memories` among each other, and with those of `bank`."""
    pairs = []
    who = [(memory.namespace, memory_id(memory)) for memory in memories]
    for n, twin, cosine in near(keys, keys, spread):
        if n < twin and who[n][0] == who[twin][0]:
            pairs.append(f"{'/'.join(who[n])} and {who[twin][1]} ({cosine:.2f})")
    there = bank.names if bank else []
    for n, twin, cosine in near(keys, bank.keys, spread) if bank else ():
        if there[twin] not in who and there[twin][0] == who[n][0]:
            pairs.append(f"{'/'.join(who[n])} and {there[twin][1]}, which the bank has ({cosine:.2f})")
    return pairs


def _name(memory: NewMemory) -> str:
    return f"{memory.namespace}/{memory_id(memory)}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
