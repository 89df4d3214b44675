"""How an embedder reads: in how many tokens, in which windows, and what it cannot read at all.

A tokenizer of English knows nearly every letter there is, and no word of Greek: it spells what it does not
know, and all that is spelled looks alike to the model. So a letter counts as read when it is part of a longer
token; in Chinese, Japanese and Korean, whose characters say more, also alone, if the vocabulary is for them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from vllm_mega.gate.passages import ends, passages

PASSAGE = 32
"""Tokens of a passage that a query is compared by: one or two sentences. Of 25 lines of log with a question
above, between or below, all passages of 96 tokens and more find fewer."""
SHORT = 64
"""Tokens up to which a query is compared as a whole alone."""
WINDOW = 128
"""Tokens of a window of a text that is embedded as one, where it is too long for the embedder."""
MOST = 64
"""Passages of one query, half from each end: beyond, a query would hold up all others."""
READABLE = 0.5
"""A text of which less can be read opens nothing."""

_SPECIAL = 4
"""Tokens that an embedder may put around a text."""
_IDEOGRAPHS = range(0x4E00, 0xA000)
_KANA = range(0x3040, 0x3100)
_HANGUL = range(0xAC00, 0xD7A4)
_SAMPLE = "".join(map(chr, _IDEOGRAPHS[::40]))
_SPACE = "\u2581"
"""How SentencePiece writes a space."""
_KNOWN = 0.1
"""Of all ideographs: English vocabularies know 1 %, those that were made for Chinese 20 % and more."""


class _Token(NamedTuple):
    start: int
    """Where in the text it begins and ends."""
    end: int
    known: bool


class Reading:
    """What a tokenizer makes of texts. Thread-safe."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        """Take a tokenizer.

        Args:
            tokenizer: of transformers or tokenizers.
            limit: tokens that the embedder reads at most, with those around the text.
        """
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._fast: Any = None
        if isinstance(backend, Tokenizer):
            # A copy: others set how long texts are cut, and one tokenizer serves one thread at a time.
            self._fast = Tokenizer.from_str(backend.to_str())
            self._fast.no_truncation()
            self._fast.no_padding()
        self._tokenizer = tokenizer
        self._limit = max(1, limit - _SPECIAL)
        self._unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        self._dense = True
        self._dense = self.readable_share(_SAMPLE) >= _KNOWN

    def windows(self, text: str) -> list[str]:
        """`text`, or its parts where the embedder does not read it whole."""
        if self.counts([text])[0] <= self._limit:
            return [text]
        return passages(text, min(WINDOW, self._limit), self.counts)

    def passages(self, text: str) -> list[str]:
        """What a query is compared by: the whole of it, where that fits, and its passages; see `Embedder`."""
        tokens = self.counts([text])[0]
        whole = [text] if tokens <= self._limit else []
        parts = passages(text, min(PASSAGE, self._limit), self.counts) if tokens > SHORT or not whole else []
        return [
            part
            for part in dict.fromkeys([*whole, *ends(parts, MOST)])
            if self.readable_share(part) >= READABLE
        ]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without those around it."""
        return [len(tokens) for tokens in self._ids(texts)]

    def readable_share(self, text: str) -> float:
        """The part of the letters that can be read, 0 to 1; of a text without letters, of all its signs."""
        if self._fast is None:
            (ids,) = self._ids([text])
            return 1 - sum(token == self._unknown for token in ids) / max(1, len(ids))
        letters = [at for at, sign in enumerate(text) if _is_letter(sign)]
        asked = letters or [at for at, sign in enumerate(text) if not sign.isspace()]
        if not asked:
            return 1.0
        covers: list[list[_Token]] = [[] for _ in text]
        for token in self._tokens(text):
            for at in range(token.start, token.end):
                covers[at].append(token)
        alone = _alone(text)
        read = sum(self._reads(text[at], covers[at], spelled_ok=at in alone) for at in asked)
        return read / len(asked)

    def _reads(self, sign: str, tokens: Sequence[_Token], *, spelled_ok: bool) -> bool:
        """Whether one known token has `sign`, and has more of a word than a letter."""
        if len(tokens) != 1 or not tokens[0].known:
            return False
        if tokens[0].end - tokens[0].start > 1 or not _is_letter(sign):
            return True
        dense = any(ord(sign) in script for script in (_IDEOGRAPHS, _KANA, _HANGUL))
        return self._dense if dense else spelled_ok

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._fast is not None:
            encodings = self._fast.encode_batch(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return [
            self._tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"] for text in texts
        ]

    def _tokens(self, text: str) -> list[_Token]:
        encoding = self._fast.encode(text, add_special_tokens=False)
        # Of some tokenizers a token begins with the space before it, or is that space alone.
        return [
            _Token(start + (len(part := text[start:end]) - len(part.lstrip())), end, token != self._unknown)
            for (start, end), token, name in zip(encoding.offsets, encoding.ids, encoding.tokens, strict=True)
            if name != _SPACE
        ]


def _is_letter(sign: str) -> bool:
    """A letter, or a mark on one."""
    return unicodedata.category(sign)[0] in "LM"


def _alone(text: str) -> set[int]:
    """Where letters stand that are words by themselves ("a")."""
    places = set()
    at = 0
    for letters, run in groupby(text, _is_letter):
        length = len(list(run))
        if letters and length == 1:
            places.add(at)
        at += length
    return places
