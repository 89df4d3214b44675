"""Control tokens of a model: what a text that spells them becomes in a prompt, and how it stays plain text.

Chat templates write a conversation as one text, and the tokenizer reads the control tokens in it, whoever
wrote them. So a recital that spells one would end its own turn, or open another, when it is put in context.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any


def special_ids(tokenizer: Any) -> set[int]:
    """The special tokens, which vLLM leaves out of what it shows; without the one for unknown words."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def control_tokens(tokenizer: Any, ends: Iterable[int] = ()) -> frozenset[str]:
    """How the control tokens of `tokenizer` (of transformers) are spelled.

    Args:
        tokenizer: any; of one that is not of transformers nothing is known.
        ends: tokens at which answers end, beside the special ones.
    """
    if not hasattr(tokenizer, "added_tokens_decoder"):
        return frozenset()
    ids = special_ids(tokenizer).union(ends)
    names = {tokenizer.convert_ids_to_tokens(token) for token in ids} | {tokenizer.unk_token}
    return frozenset(name for name in names if name and len(name) > 1)


def plain_text(text: str, control: Collection[str]) -> str:
    """`text` that spells none of `control`: behind the first character of each stands a space."""
    if not control:
        return text
    spelled = re.compile("|".join(re.escape(name) for name in sorted(control, key=len, reverse=True)))
    while spelled.search(text):
        text = spelled.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text
