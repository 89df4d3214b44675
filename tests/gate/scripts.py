"""Prompts that no memory of the tests is about, in twelve scripts, and banks in four languages."""

from __future__ import annotations

import json
from pathlib import Path

from vllm_mega.bank.layout import NewMemory

_FILE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

UNRELATED: dict[str, list[str]] = _FILE["unrelated"]
"""By script."""
SIGNS: list[str] = _FILE["signs"]
"""No letters at all."""
BANKS = {language: [NewMemory(**fields) for fields in some] for language, some in _FILE["banks"].items()}
RELATED: dict[str, dict[str, str]] = _FILE["related"]
"""By language: question to the id of the memory that answers it."""
