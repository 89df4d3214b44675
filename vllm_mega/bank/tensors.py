"""Reading a safetensors file: the header first, then one tensor at a time from the mapped file. And writing.

Own parsing beside the library's, because numpy has no bfloat16 and this must work without torch.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors

from vllm_mega.errors import AdapterError
from vllm_mega.jsonl import JsonError, decode
from vllm_mega.regular_file import open_regular

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a zip archive of torch.save, and a bare pickle, begin."""
_KINDS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
MAX_HEADER = 16 << 20
"""Bytes of a header; that of a hundred thousand tensors is smaller."""
MAX_FILE = 1 << 40
"""Bytes of a file whose size nothing else bounds."""
CONVERT = "Save the adapter again as safetensors (PEFT: save_pretrained with safe_serialization=True)"


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor, as the header tells."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """Where its bytes are, counted from the end of the header."""


def read_header(path: Path, most: int = MAX_FILE) -> tuple[dict[str, TensorInfo], int]:
    """The tensors of the file by name, and where the data begins. Reads no values.

    Args:
        path: of a safetensors file.
        most: bytes that it may have.

    Raises:
        AdapterError: a pickle, truncated, with an absurdly long header, or otherwise not safetensors; or it
            cannot be opened, is no regular file, or is larger than `most`.
    """
    try:
        return _read_header(path, most)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> AdapterError:
    """What is said of an adapter's file, or of one in the folder `path`, that cannot be read."""
    return AdapterError(
        error.filename or path,
        expected="a file that can be read",
        found=error.strerror or str(error),
        change="Mend it, or add the adapter again",
    )


def _read_header(path: Path, most: int) -> tuple[dict[str, TensorInfo], int]:
    with open_regular(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        # A header of 1,408 bytes begins like a pickle too: what follows tells them apart.
        after = file.read(1)
        if head.startswith(_PICKLES) and after != b"{":
            raise AdapterError(path, expected="safetensors", found="a pickle", change=CONVERT)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise _broken(path, f"{size} bytes, less than its header says (truncated or corrupt)")
        if length > MAX_HEADER:
            raise _broken(path, f"a header of {length} bytes, more than {MAX_HEADER}")
        header = after + file.read(length - 1) if length else b""
    try:
        raw = decode(header, dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        infos = {name: decode(part, TensorInfo) for name, part in raw.items()}
    except JsonError as error:
        raise _broken(path, f"a header that cannot be read ({error})") from error
    start = 8 + length
    end = start + max((info.data_offsets[1] for info in infos.values()), default=0)
    if size < end:
        raise _broken(path, f"{size} bytes, {end - size} less than its header says (truncated)")
    try:
        with safetensors.safe_open(path, framework="numpy"):  # checks offsets, sizes and overlaps
            pass
    except safetensors.SafetensorError as error:
        raise _broken(path, f"a corrupt file ({error})") from error
    return infos, start


def _broken(path: Path, found: str) -> AdapterError:
    return AdapterError(
        path, expected="a whole safetensors file", found=found, change="Copy or export it again"
    )


def read_values(
    path: Path, infos: Mapping[str, TensorInfo], start: int
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name and flat values, tensor by tensor: F32 and F16 as floats, BF16 as its uint16 bits."""
    with open_regular(path, MAX_FILE) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for name, info in infos.items():
            kind = _KINDS[info.dtype]
            first, last = info.data_offsets
            # Slicing copies: a view would not let the mapping be closed.
            yield name, np.frombuffer(mapped[start + first : start + last], kind)


def magnitude(values: npt.NDArray[Any]) -> float:
    """The largest absolute value, NaN if one is NaN; uint16 means the bits of bfloat16."""
    if values.dtype == np.uint16:
        return float(as_float32((values & 0x7FFF).max(initial=0, keepdims=True))[0])
    return float(np.abs([values.min(initial=0), values.max(initial=0)]).max())


def all_zero(values: npt.NDArray[Any]) -> bool:
    """Whether all are +0 or -0; uint16 means the bits of bfloat16."""
    if values.dtype == np.uint16:
        return not bool((values & 0x7FFF).any())
    return not bool(values.any())


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """`values` exactly; uint16 means the bits of bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def encode_tensors(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A safetensors file with `tensors`, of the types that `read_values` gives."""
    kinds = {kind: name for name, kind in _KINDS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    position = 0
    # The widest first, so that each begins at a multiple of its own size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        values = tensors[name]
        parts.append(np.ascontiguousarray(values).tobytes())
        end = position + len(parts[-1])
        header[name] = TensorInfo(kinds[values.dtype], values.shape, (position, end))
        position = end
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])
