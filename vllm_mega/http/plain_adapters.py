"""Plain adapters are served to whoever asks for their name. What belongs to memories is none of them."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.bank.catalog.catalog import ADAPTERS, BANK_FILE
from vllm_mega.mixture import NAME_PREFIX, is_mixture_path


def why_not(name: str, path: str, bank: Path) -> str:
    """Why `path` must not be served as the plain adapter `name`; empty: it may.

    A mixture's path names any file of the machine, and a memory as a plain adapter has no namespace.

    Args:
        name: that clients would ask for.
        path: a folder, a Hugging Face id, or whatever was sent.
        bank: of the server.
    """
    if name.startswith(NAME_PREFIX):
        return f"names that begin with {NAME_PREFIX!r} are those of mixtures: choose another"
    if is_mixture_path(path):
        return (
            "this is the path of a mixture, which requests get from the gate: give the folder of an adapter"
        )
    try:
        folder, served = Path(path).resolve(), bank.resolve()
        is_memory = any(place == served or _is_bank(place) for place in (folder, *folder.parents))
    except (OSError, ValueError) as error:  # too long, or with a null byte
        return f"this is no path: {type(error).__name__}"
    if is_memory:
        return (
            "this is a memory of a bank, which requests get from the gate: serve a copy of the adapter alone"
        )
    return ""


def _is_bank(folder: Path) -> bool:
    return (folder / BANK_FILE).is_file() and (folder / ADAPTERS).is_dir()
