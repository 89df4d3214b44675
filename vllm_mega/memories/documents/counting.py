"""How many tokens of a base model a text has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_mega._quiet import quiet
from vllm_mega.errors import ModelError
from vllm_mega.memories.documents.sections import Count


def token_count(model: Path, *, trust_remote_code: bool = False) -> Count:
    """What counts tokens as `model` does.

    Args:
        model: folder of the base model.
        trust_remote_code: whether to run code that it brings.

    Raises:
        ModelError: it has no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                model, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{model}: its tokenizer cannot be loaded ({error})") from error

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [
            len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        ]

    return count
