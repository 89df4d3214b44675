"""PDF, DOCX and HTML through the converters of the extra `documents`, in a process that may fail alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from vllm_mega.errors import DocumentError
from vllm_mega.memories.documents._converting import SECONDS
from vllm_mega.memories.documents.pages import Bookmark

Kind = Literal["html", "docx", "pdf"]
_PROGRAM = Path(__file__).with_name("_converting.py")
_NEEDS = {
    "html": ("bs4", "markdownify"),
    "docx": ("bs4", "markdownify", "mammoth"),
    "pdf": ("pypdfium2",),
}


class Converted(msgspec.Struct, frozen=True):
    """What a converter found; Markdown of HTML and DOCX, pages of PDF."""

    title: str = ""
    text: str = ""
    pages: tuple[str, ...] = ()
    bookmarks: tuple[Bookmark, ...] = ()
    error: str = ""


def convert(path: Path, content: bytes, kind: Kind) -> Converted:
    """What the file says.

    Args:
        path: for messages.
        content: the content of the file.
        kind: its type.

    Raises:
        DocumentError: the converter is not installed, or cannot read the file; the message says why.
    """
    if missing := [name for name in _NEEDS[kind] if find_spec(name) is None]:
        raise DocumentError(
            f"{path}: {kind.upper()} needs {', '.join(missing)}, not installed here: "
            "pip install 'vllm-mega[documents]'"
        )
    try:
        # -P: the folder of the program is no place to import from.
        done = subprocess.run(
            [sys.executable, "-P", str(_PROGRAM), kind],
            input=content,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DocumentError(f"{path}: not read within {SECONDS} s: divide it") from error
    said = _result(path, done)
    if said.error:
        raise DocumentError(f"{path}: {said.error}")
    return said


def _result(path: Path, done: subprocess.CompletedProcess[bytes]) -> Converted:
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=Converted)
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    why = lines[-1][:300] if lines else f"signal {-done.returncode}"
    raise DocumentError(f"{path}: its converter broke off ({why}): the file may be damaged, or too large")
