"""Embedders: texts to unit vectors. One function for memories (keys) and queries, as in the paper.

A text must get the same vector alone and among others, or equal queries would get different mixtures.
Padding is what changes it (in the last bits): the length of the longest neighbour decides in which
order sums are taken. So only texts of one token count make a batch, and nothing is ever padded.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vllm_mega._quiet import quiet
from vllm_mega.bank.layout import EmbedderInfo
from vllm_mega.errors import ModelError
from vllm_mega.models import (
    BASE_PREFIX,
    DEFAULT_EMBEDDER,
    fingerprint,
    resolve_embedder,
    resolve_model,
    stable_name,
)

Vectors = npt.NDArray[np.float32]

_ROWS = 16  # more rows at once are no faster on a CPU
_MAX_TOKENS = 1024


class Embedder(Protocol):
    """What the gate needs of an embedder. Thread-safe."""

    @property
    def info(self) -> EmbedderInfo:
        """Name, fingerprint and D: what a bank remembers of who made its keys."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [n, D]; equal texts get equal vectors, whatever else is in the call."""
        ...


def load_embedder(name: str | None = None) -> Embedder:
    """The embedder `name`.

    Args:
        name: a sentence-transformers model (path or Hugging Face id), or `base:<model>` for the paper's
            own embedding; None: all-MiniLM-L6-v2.

    Raises:
        ModelError: it cannot be found or used.
    """
    if name is not None and name.startswith(BASE_PREFIX):
        return BaseModelEmbedder(name.removeprefix(BASE_PREFIX))
    return SentenceEmbedder(name or DEFAULT_EMBEDDER)


class SentenceEmbedder:
    """A sentence-transformers model, on the CPU: accelerators belong to the engine."""

    def __init__(self, name: str = DEFAULT_EMBEDDER) -> None:
        """Load the model `name` (path or Hugging Face id).

        Raises:
            ModelError: it cannot be found, or is no sentence-transformers model.
        """
        path = resolve_embedder(name)
        from sentence_transformers import SentenceTransformer

        try:
            with quiet():
                self._model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: expected a sentence-transformers model: {error}") from error
        self._lock = threading.Lock()
        dim = int(self._model.get_embedding_dimension() or 0)
        self._info = EmbedderInfo(stable_name(name), fingerprint(path), dim)

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. Of a long text the model sees the beginning (256 tokens by default)."""
        out = np.empty((len(texts), self._info.dim), np.float32)
        with self._lock:
            lengths = [self._model.preprocess([text])["input_ids"].shape[-1] for text in texts]
            for batch in batches(lengths):
                out[batch] = self._model.encode(
                    [texts[i] for i in batch],
                    prompt="",  # keys and queries are embedded alike
                    batch_size=_ROWS,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
        return out


class BaseModelEmbedder:
    """The paper's own embedding: mean over tokens of the input of the base model's last MLP, on the CPU.

    Scores of small models crowd together: with SmolLM2-135M-Instruct related texts and unrelated ones
    lie between 0.84 and 0.98, so threshold and beta must be chosen anew.
    """

    def __init__(self, name: str) -> None:
        """Load the base model `name` (as `models.resolve_model` takes it).

        Raises:
            ModelError: it cannot be found, or has no layers with an MLP.
        """
        path = resolve_model(name)
        from transformers import AutoModel, AutoTokenizer

        try:
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
                self._model = AutoModel.from_pretrained(path, dtype="auto", local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: expected a Hugging Face checkpoint: {error}") from error
        try:
            mlp = self._model.layers[-1].mlp
        except (AttributeError, IndexError, TypeError) as error:
            raise ModelError(
                f"{path}: expected a decoder with layers[-1].mlp, found {type(self._model).__name__}. "
                "Use a sentence encoder as embedder"
            ) from error
        mlp.register_forward_pre_hook(self._keep)
        self._seen: Any = None
        self._lock = threading.Lock()
        dim = int(self._model.config.hidden_size)
        self._info = EmbedderInfo(BASE_PREFIX + stable_name(name), BASE_PREFIX + fingerprint(path), dim)

    def _keep(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        """The hook: the input is [1, T, D]."""
        self._seen = inputs[0]

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. Of a long text the model sees the first 1,024 tokens."""
        import torch

        out = np.empty((len(texts), self._info.dim), np.float32)
        with self._lock, torch.inference_mode():
            # One by one: where the number of rows chooses another kernel, results differ by a step of the
            # model's type, and that of bfloat16 is large enough to move weights.
            for row, text in enumerate(texts):
                self._model(input_ids=torch.tensor([self._tokens(text)]), use_cache=False)
                mean = self._seen[0].float().mean(dim=0)
                out[row] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            self._seen = None
        return out

    def _tokens(self, text: str) -> list[int]:
        ids = self._tokenizer(text, truncation=True, max_length=_MAX_TOKENS)["input_ids"]
        return list(ids) or [self._tokenizer.eos_token_id or 0]


class FakeEmbedder:
    """Needs no model: a text is the sum of its words, each a random direction. For tests and dry runs."""

    def __init__(self, dim: int = 64) -> None:
        """`dim`: D."""
        self._info = EmbedderInfo("fake", f"fake-{dim}", dim)

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. The more words two texts share, the nearer they are."""
        return np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self._info.dim)

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        words = re.findall(r"\w+", text.lower()) or [""]
        total = np.sum([_direction(word, self._info.dim) for word in words], axis=0)
        return np.asarray(total / np.linalg.norm(total))


@lru_cache(maxsize=4096)
def _direction(word: str, dim: int) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)


def batches(lengths: Sequence[int], rows: int = _ROWS) -> Iterator[list[int]]:
    """Positions in `lengths`, in groups of at most `rows` that are of one length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        groups[length].append(position)
    for _, group in sorted(groups.items()):
        for start in range(0, len(group), rows):
            yield group[start : start + rows]
