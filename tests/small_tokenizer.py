"""The default model's tokenizer with its first words alone.

For small random models: all of its words take longer to load than such a model takes to run.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

from vllm_mega.models import resolve_model

WORDS = 4096
"""Special ones, letters and the first merges; a sentence takes a third more tokens than with all of them."""


@cache
def _cut() -> str:
    """Its tokenizer.json."""
    made = json.loads((resolve_model() / "tokenizer.json").read_text(encoding="utf-8"))
    model = made["model"]
    kept = {word: number for word, number in model["vocab"].items() if number < WORDS}
    merges = model["merges"]
    model |= {"vocab": kept, "merges": [pair for pair in merges if "".join(pair) in kept]}
    return json.dumps(made)


def save_tokenizer(folder: Path) -> None:
    """Write it, and the chat format, into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(resolve_model() / name, folder / name)
    (folder / "tokenizer.json").write_text(_cut(), encoding="utf-8")
