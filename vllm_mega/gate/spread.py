"""How far apart an embedder keeps what has nothing to do with each other: its scores are known by that."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.selection import Scores

_UNRELATED = (
    "What is 17 times 24?", "Write a haiku about rain.", "How do I sort a list in Python?",
    "Translate 'good night' into French.", "Which planets have rings?", "Summarise the rules of tennis.",
    "How long do eggs have to boil?", "Why is the sky blue?", "Draft a polite letter to my landlord.",
    "Who wrote Don Quixote?", "Suggest a name for a sailing boat.", "What does a central bank do?",
    "My knee hurts after running.", "Fix the spelling of this sentence.", "Hello!", "2+2",
)  # fmt: skip
"""Have nothing to do with each other, and so with at most one of any memories."""


_scores: WeakKeyDictionary[Embedder, Scores] = WeakKeyDictionary()


def unrelated_scores(embedder: Embedder) -> Scores:
    """Scores of unrelated prompts with each other: [P], one for each pair; computed once for an embedder."""
    if embedder not in _scores:
        vectors = embedder.embed(_UNRELATED)
        _scores[embedder] = np.asarray((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)], np.float64)
    return _scores[embedder]


def spread(embedder: Embedder) -> float:
    """What lies between the score of unrelated texts (the median) and 1: 0.9 for all-MiniLM-L6-v2, in which
    thresholds of this package are measured, 0.2 for multilingual-e5-small.
    """
    return float(1 - np.median(unrelated_scores(embedder)))
