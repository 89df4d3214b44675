"""Where the question of a prompt starts: the token from which a mixture acts. Pure.

A template is a program, so where it writes a message is learnt from what it writes: the prompt, and the same
with another last question. What both begin with stands before it, whatever the template does, how often it
repeats itself, and whatever users type. Training and serving ask the same two functions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_USUAL, _OTHER = "0", "1"
"""Nothing that a template or tokenizer drops or joins to what stands before."""


def other_question(text: str) -> str:
    """A question that differs from `text` from its first letter or digit on."""
    plain = unicodedata.normalize("NFKC", text)
    first = next((character for character in plain if character.isalnum()), "")
    return _OTHER if first == _USUAL else _USUAL


def start_of(prompt: Sequence[int], varied: Sequence[int]) -> int:
    """The position, in tokens, at which the question starts.

    A token that joins the question's first characters to the template's is the question's.

    Args:
        prompt: token ids of the whole prompt.
        varied: the same with `other_question` for the last question, or a prompt cut off where it starts.
    """
    pairs = enumerate(zip(prompt, varied, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(prompt), len(varied)))
