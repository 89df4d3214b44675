"""What identifies a memory: its id, and the digest of what trains it. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_mega.bank.layout import Content, NewMemory


def memory_id(memory: NewMemory) -> str:
    """The id of `memory`; without one, "m-" and 12 hex digits of the SHA-256 of its text."""
    return memory.id or "m-" + hashlib.sha256(memory.text.encode()).hexdigest()[:12]


def content(memory: NewMemory) -> Content:
    """What of `memory` trains it."""
    return Content(memory.text, memory.title, memory.paraphrases, memory.qa)


def encode_content(memory: NewMemory) -> bytes:
    """What of `memory` trains it, as the bytes whose digest tells it apart."""
    return msgspec.json.encode(content(memory))


def text_digest(memory: NewMemory) -> str:
    """SHA-256 of what trains the memory, and of nothing else."""
    return hashlib.sha256(encode_content(memory)).hexdigest()
