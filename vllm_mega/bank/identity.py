"""What identifies a memory: its id, and the digest of everything that it was trained on. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_mega.bank.layout import NewMemory


def memory_id(memory: NewMemory) -> str:
    """The id of `memory`; without one, "m-" and 12 hex digits of the SHA-256 of its text."""
    return memory.id or "m-" + hashlib.sha256(memory.text.encode()).hexdigest()[:12]


def encode_memory(memory: NewMemory) -> bytes:
    """The bytes of `memory.json`: `memory` with its id filled in.

    Its links are left out: the manifest has them, and a memory whose links change is not trained again.
    """
    fields = msgspec.structs.asdict(msgspec.structs.replace(memory, id=memory_id(memory)))
    del fields["links"]
    return msgspec.json.encode(fields)


def text_digest(memory: NewMemory) -> str:
    """SHA-256 of `memory.json`, so that two equal lines are the same memory in the same state."""
    return hashlib.sha256(encode_memory(memory)).hexdigest()
