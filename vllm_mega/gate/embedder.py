"""Embedders: texts to unit vectors. One function for memories (keys) and queries, as in the paper.

A text must get the same vector alone and among others, or equal queries would get different mixtures.
Nothing is cut: a text that is too long for the model is embedded in windows.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vllm_mega._quiet import quiet
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.layout import EmbedderInfo
from vllm_mega.errors import ModelError
from vllm_mega.gate.reading import Reading
from vllm_mega.gate.vectors import ROWS, Vectors, batches, unit, whole
from vllm_mega.models import (
    BASE_PREFIX,
    DEFAULT_EMBEDDER,
    fingerprint,
    resolve_embedder,
    resolve_model,
    stable_name,
)
from vllm_mega.models.refusals import load_error

_MAX_TOKENS = 1024


class Embedder(Protocol):
    """What the gate needs of an embedder. Thread-safe."""

    @property
    def info(self) -> EmbedderInfo:
        """Name, fingerprint and D: what a bank remembers of who made its keys."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [n, D], each of a whole text, however long: the mean of its windows.

        Equal texts get equal vectors, whatever else is in the call.
        """
        ...

    def passages(self, text: str) -> list[str]:
        """What of `text` is compared when it is asked, each by itself: the best of them counts.

        A short text is one. A long one is a whole where the model reads so much at once, and passages of
        a sentence or two, so that a question behind pasted text counts as much as one alone. Empty: the
        model cannot read the script, and what it makes of the text means nothing.
        """
        ...


def load_embedder(name: str | None = None, *, trust_remote_code: bool = False) -> Embedder:
    """The embedder `name`.

    Args:
        name: a sentence-transformers model (path or Hugging Face id), or `base:<model>` for the paper's
            own embedding; None: all-MiniLM-L6-v2.
        trust_remote_code: whether to run code that the model brings.

    Raises:
        ModelError: it cannot be found or used, or brings code that is not trusted.
    """
    if name is not None and name.startswith(BASE_PREFIX):
        return BaseModelEmbedder(name.removeprefix(BASE_PREFIX), trust_remote_code=trust_remote_code)
    return SentenceEmbedder(name or DEFAULT_EMBEDDER, trust_remote_code=trust_remote_code)


def bank_embedder(
    settings: BankSettings,
    given: str | None = None,
    model: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> Embedder:
    """The embedder of a bank, wherever it is now.

    Args:
        settings: of the bank.
        given: where the embedder is; None: where it was, or, if it is made of the bank's base model, ...
        model: ... where that is; None: where it was.
        trust_remote_code: whether to run code that the model brings.

    Raises:
        ModelError: as `load_embedder`; if it has moved, the message says what to do.
    """
    made = settings.embedder.name
    is_base = made == f"{BASE_PREFIX}{settings.base.name}"
    name = given or (f"{BASE_PREFIX}{model}" if is_base and model else made)
    try:
        resolve_embedder(name)
    except ModelError as error:
        if given:
            raise
        raise ModelError(
            f"the bank's embedder cannot be found ({error}). If it has moved, give its new place with "
            + ("--model" if is_base else "--embedder")
        ) from error
    return load_embedder(name, trust_remote_code=trust_remote_code)


class SentenceEmbedder:
    """A sentence-transformers model, on the CPU: accelerators belong to the engine."""

    def __init__(self, name: str = DEFAULT_EMBEDDER, *, trust_remote_code: bool = False) -> None:
        """Load the model `name` (path or Hugging Face id); see `load_embedder`.

        Raises:
            ModelError: it cannot be found, or is no sentence-transformers model.
        """
        path = resolve_embedder(name)
        from sentence_transformers import SentenceTransformer

        try:
            with quiet():
                self._model = SentenceTransformer(
                    str(path), device="cpu", local_files_only=True, trust_remote_code=trust_remote_code
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise load_error(path, error, "a sentence-transformers model") from error
        self._lock = threading.Lock()
        dim = int(self._model.get_embedding_dimension() or 0)
        self._info = EmbedderInfo(stable_name(name), fingerprint(path), dim)
        self._reading = Reading(self._model.tokenizer, _limit(self._model.max_seq_length))

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        return whole(texts, self._reading.windows, self._embed)

    def passages(self, text: str) -> list[str]:
        """See `Embedder.passages`."""
        return self._reading.passages(text)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [n, D] of texts that the model reads whole."""
        out = np.empty((len(texts), self._info.dim), np.float32)
        with self._lock:
            lengths = [self._model.preprocess([text])["input_ids"].shape[-1] for text in texts]
            for batch in batches(lengths):
                out[batch] = self._model.encode(
                    [texts[i] for i in batch],
                    prompt="",  # keys and queries are embedded alike
                    batch_size=ROWS,
                    show_progress_bar=False,
                )
        return unit(out)


class BaseModelEmbedder:
    """The paper's own embedding: mean over tokens of the input of the base model's last MLP, on the CPU.

    Scores of small models crowd together: with SmolLM2-135M-Instruct related texts and unrelated ones
    lie between 0.84 and 0.98, so threshold and beta must be chosen anew.
    """

    def __init__(self, name: str, *, trust_remote_code: bool = False) -> None:
        """Load the base model `name` (as `models.resolve_model` takes it); see `load_embedder`.

        Raises:
            ModelError: it cannot be found, or has no layers with an MLP.
        """
        path = resolve_model(name)
        from transformers import AutoModel, AutoTokenizer

        try:
            with quiet():
                how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
                self._tokenizer = AutoTokenizer.from_pretrained(path, **how)
                self._model = AutoModel.from_pretrained(path, dtype="auto", **how).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise load_error(path, error, "a Hugging Face checkpoint") from error
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
        self._reading = Reading(self._tokenizer, _MAX_TOKENS)

    def _keep(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        """The hook: the input is [1, T, D]."""
        self._seen = inputs[0]

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        return whole(texts, self._reading.windows, self._embed)

    def passages(self, text: str) -> list[str]:
        """See `Embedder.passages`."""
        return self._reading.passages(text)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [n, D] of texts that the model reads whole."""
        import torch

        out = np.empty((len(texts), self._info.dim), np.float32)
        with self._lock, torch.inference_mode():
            # One by one: where the number of rows chooses another kernel, results differ by a step of the
            # model's type, and that of bfloat16 is large enough to move weights.
            for row, text in enumerate(texts):
                self._model(input_ids=torch.tensor([self._tokens(text)]), use_cache=False)
                out[row] = self._seen[0].float().mean(dim=0).numpy()
            self._seen = None
        return unit(out)

    def _tokens(self, text: str) -> list[int]:
        ids = self._tokenizer(text, truncation=True, max_length=_MAX_TOKENS)["input_ids"]
        return list(ids) or [self._tokenizer.eos_token_id or 0]


class FakeEmbedder:
    """Needs no model: a text is the sum of its words, each a random direction. For tests and dry runs."""

    def __init__(self, dim: int = 64) -> None:
        """`dim`: numbers of a vector, D."""
        self._info = EmbedderInfo("fake", f"fake-{dim}", dim)

    @property
    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. The more words two texts share, the nearer they are."""
        return np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self._info.dim)

    def passages(self, text: str) -> list[str]:
        """See `Embedder.passages`. Every text is one, and readable."""
        return [text]

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        words = re.findall(r"\w+", text.lower()) or [""]
        total = np.sum([_direction(word, self._info.dim) for word in words], axis=0)
        return np.asarray(total / np.linalg.norm(total))


@lru_cache(maxsize=4096)
def _direction(word: str, dim: int) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)


def _limit(most: float | None) -> int:
    """Tokens of a window, of a model that names none as well."""
    return int(min(most or _MAX_TOKENS, _MAX_TOKENS))
