"""Whether a draft may enter the catalog. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vllm_mega.bank.catalog.records import Draft, MemoryName, Source, Version
from vllm_mega.bank.layout import NewMemory, moment_of
from vllm_mega.config import repeated
from vllm_mega.errors import DraftError


def key_bytes(key: npt.NDArray[np.float32]) -> bytes:
    """A key [D] as the catalog keeps it."""
    return np.ascontiguousarray(key, np.float32).tobytes()


def key_array(data: bytes) -> npt.NDArray[np.float32]:
    """The key [D] that `key_bytes` made `data` of; read-only."""
    return np.frombuffer(data, np.float32)


def key_problem(key: npt.NDArray[np.float32], dim: int) -> str | None:
    """What is wrong with a key [D]; None: nothing."""
    if key.shape != (dim,):
        return f"expected shape ({dim},), found {key.shape}"
    if not np.isfinite(key).all():
        return "expected finite values, found NaN or infinity"
    length = float(np.linalg.norm(key))
    if abs(length - 1.0) > 1e-3:
        return f"expected unit length, found {length:g}"
    return None


def check_drafts(drafts: Sequence[Draft], dim: int) -> None:
    """Refuse drafts that the catalog cannot keep, and two of one memory: which would win?

    Args:
        drafts: all of one change.
        dim: D of the keys.

    Raises:
        DraftError: says which memory, and what is wrong with it.
    """
    for draft in drafts:
        if problem := draft_problem(draft, dim):
            raise DraftError(f"memory {draft.memory.namespace}/{draft.memory.id}: {problem}")
    names = [f"{draft.memory.namespace}/{draft.memory.id}" for draft in drafts]
    if twice := repeated(names):
        raise DraftError(f"the memory {twice[0]} is given twice: give each one once")


def check_expiration(name: MemoryName, expires: float | None, now: float) -> None:
    """Refuse a memory that would have expired already.

    Raises:
        DraftError: as above.
    """
    if expires is not None and expires <= now:
        found = f"expires_at must be later than now, found {moment_of(expires)}"
        raise DraftError(f"memory {name.namespace}/{name.id}: {found}")


def draft_problem(draft: Draft, dim: int) -> str | None:
    """What is wrong with a draft; None: nothing."""
    if not draft.memory.id:
        return "expected an id, found none: fill it in (bank.identity.memory_id)"
    if not draft.text_digest:
        return "expected the digest of what trains, found none"
    if any("\0" in text for text in _texts(draft)):
        return "a text has a NUL character, which PostgreSQL cannot keep: take it out"
    if draft.key is None:
        return None
    if len(draft.key) != 4 * dim:
        return f"expected a key of {4 * dim} bytes, found {len(draft.key)}"
    problem = key_problem(key_array(draft.key), dim)
    return problem and f"its key: {problem}"


def changes(draft: Draft, version: Version) -> bool:
    """Whether the draft says anything that the memory's newest version does not; links are no part of it."""
    memory = draft.memory
    return (
        draft.text_digest != version.text_digest
        or memory.tags != version.tags
        or draft.source != version.source
        or (draft.key is not None and version.key is None)
        or (draft.trained is not None and draft.trained.adapter != version.adapter)
    )


def draft_of(version: Version, *, train: bool, tags: tuple[str, ...] | None = None) -> Draft:
    """A draft that says what a version says, with other tags, perhaps; the memory's links stay."""
    memory = NewMemory(
        version.text,
        id=version.id,
        title=version.title,
        namespace=version.namespace,
        tags=version.tags if tags is None else tags,
        paraphrases=version.paraphrases,
        qa=version.qa,
    )
    return Draft(memory, version.text_digest, version.key, version.source, train=train)


def name_of(draft: Draft) -> MemoryName:
    return MemoryName(draft.memory.namespace, draft.memory.id)


def _texts(draft: Draft) -> Iterator[str]:
    memory = draft.memory
    yield from (memory.text, memory.title, *memory.tags, *memory.paraphrases)
    for qa in memory.qa:
        yield from (qa.question, qa.answer)
    source = draft.source or Source("")
    yield from (source.file, source.digest)
