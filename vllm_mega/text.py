"""Sentences of a text, in any script: what training, the gate and evaluation share. Pure."""

from __future__ import annotations

import re

_SPACE = " \t\r\n"
_PLAIN = ".!?"
_PLAIN_CLOSING = "\"')]"
_WIDE = "。！？｡؟۔।॥"  # noqa: RUF001  (that they look alike is the point)
"""Ends of sentences in Chinese and Japanese, Arabic and Urdu, Hindi and its neighbours."""
_WIDE_CLOSING = _PLAIN_CLOSING + "」』”’）】»"  # noqa: RUF001
_CLOSE = f"[{re.escape(_WIDE_CLOSING)}]"
_SENTENCE_END = re.compile(
    # Not after an initial or a short title ("J.", "Dr."), nor before a small letter.
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)\s+(?=[^\sa-z])|\n\s*\n"
    # The others need no space behind them; but not within a row of them, nor where Japanese goes on behind
    # what was quoted.
    rf"|(?<=[{_WIDE}])(?!{_CLOSE}|[{_PLAIN}{_WIDE}])\s*"
    rf"|(?<=[{_WIDE}]{_CLOSE})(?!{_CLOSE}|[ぁ-ん{_PLAIN}{_WIDE}])\s*"
)


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; all that it has is in them, but for white space between."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def ends_sentence(piece: str) -> bool:
    """Whether a sentence ends with `piece`, a token of a text; quotes and brackets may close behind it."""
    plain, wide = (piece.rstrip(_SPACE + closing) for closing in (_PLAIN_CLOSING, _WIDE_CLOSING))
    return plain.endswith(tuple(_PLAIN)) or wide.endswith(tuple(_WIDE))
