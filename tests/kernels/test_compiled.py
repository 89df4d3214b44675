"""The Triton kernels, compiled ahead of time by the compiler of Triton's wheel: no GPU is asked for.

Every variant that an engine with one of these models compiles; what comes out must fit every GPU it is for.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vllm_mega.kernels import triton as kernels
from vllm_mega.kernels import triton_kernels

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHAPES = {
    "llama-3.1-8b": [(4096, (4096, 1024, 1024)), (4096, (4096,)), (4096, (14336, 14336)), (14336, (4096,))],
    "qwen2.5-7b": [(3584, (3584, 512, 512)), (3584, (3584,)), (3584, (18944, 18944)), (18944, (3584,))],
    "70b at TP 4": [(8192, (2048, 256, 256)), (2048, (8192,)), (8192, (7168, 7168)), (7168, (8192,))],
}
"""Of qkv, o, gate_up and down: input features, output features of each slice."""
EVERY = [shape for model in SHAPES.values() for shape in model]
ROWS = (1, 2, 16, 17, 64, 200, 8192)
SHARED = 101_376
"""Bytes that a program may have on an A10, L4, L40S or RTX 30, 40 and 50: 99 KiB."""
ALIGNED = ("x", "y", "hidden", "parts", "counters", "inputs", "stride_x", "stride_y")
"""Arguments that are multiples of 16 in an engine; Triton compiles for that."""
POINTERS = {"table": "*i64", "starts": "*i32", "records": "*i32", "parts": "*fp32", "counters": "*i32"}
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Figures:
    """Of one compiled kernel; bytes are of shared memory, and of a thread's stack."""

    shared: int
    stack: int
    registers: int
    instructions: int
    """Of 16 bytes; with what fills up the last line."""
    tensor_core: int
    wide_copies: int
    """Of 16 bytes from global to shared memory, which run beside the arithmetic."""


def variants(shapes, dtype) -> set:
    """What is compiled for layers of these shapes: kernel and constants."""
    found = set()
    for inputs, outs in shapes:
        for rows in ROWS:
            shrink, expand = kernels.tiles(rows, dtype)
            common = {"P": len(outs), "DOT": getattr(tl, str(dtype).removeprefix("torch."))}
            for kernel, constants in (
                (triton_kernels.shrink, kernels.shrink_constants(inputs, dtype, shrink)),
                (triton_kernels.expand, kernels.expand_constants(list(outs), dtype, expand)),
            ):
                found.add((kernel, tuple(sorted((constants | common).items(), key=lambda item: item[0]))))
    return found


def programs(shapes, dtype) -> list:
    """Those of `variants` that differ in more than numbers: of several widths of slices, the widest."""
    widest = {}
    for kernel, constants in sorted(variants(shapes, dtype), key=lambda one: dict(one[1]).get("OUTS", ())):
        kind = tuple(item for item in constants if item[0] != "OUTS")
        widest[kernel, str(kind)] = (kernel, constants)
    return list(widest.values())


def code_bytes(cubin: bytes) -> int:
    """Of all sections that are executed: their sizes, from the header of the ELF file."""
    (table,), (entry, count) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<HH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + n * entry) for n in range(count)]
    return sum(size for _, _, flags, _, _, size in sections if flags & 4)


@cache
def figures(kernel, constants, dtype, arch) -> Figures:
    """Compile one variant and read what came out."""
    constants = dict(constants)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    pointers = POINTERS | dict.fromkeys(("x", "y", "hidden"), f"*{TYPES[dtype]}")
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names
    }
    attrs = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(kernel.arg_names) if name in ALIGNED}
    source = ASTSource(kernel, signature, constants, attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
    usage = used(cubin)
    return Figures(
        compiled.metadata.shared,
        usage["STACK"],
        usage["REG"],
        code_bytes(cubin) // 16,
        len(re.findall(r"\b(?:mma|wgmma\.mma_async)\.sync\.aligned", ptx)),
        len(re.findall(r"\bcp\.async\.c[ag]\.shared\.global.*, (?:0x10|16),", ptx)),
    )


def used(cubin: bytes) -> dict[str, int]:
    """What the assembler says of a kernel: registers, bytes of stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", said)}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Nothing is found in the user's cache, and nothing left there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


def check(kernel, constants, dtype, arch):
    found = figures(kernel, constants, dtype, arch)
    assert found.shared <= SHARED
    # ptxas keeps one number of 8 bytes there for sm_120, with registers to spare; nothing else is spilled.
    assert found.stack <= (8 if arch == 120 else 0)
    assert found.registers <= 224, "of 255"
    assert found.instructions <= 1500
    if dtype != torch.float32:
        assert found.tensor_core > 0
        assert found.wide_copies >= 4


def of_eight_billion(dtype):
    """The variants of one layer of an 8B model that has three slices."""
    return programs(SHAPES["llama-3.1-8b"][:1], dtype)


@pytest.mark.parametrize("arch", [80, 86, 90, 120])
def test_an_8b_models_kernels_fit_every_gpu(arch):
    for dtype in (torch.bfloat16, torch.float32) if arch in {80, 90} else (torch.bfloat16,):
        for kernel, constants in of_eight_billion(dtype):
            check(kernel, constants, dtype, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 86, 90, 120])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_program_of_every_model_fits_every_gpu(dtype, arch):
    for kernel, constants in programs(EVERY, dtype):
        check(kernel, constants, dtype, arch)


@pytest.mark.parametrize("dtype", TYPES)
def test_widths_of_slices_are_whole_tiles_of_every_variant(dtype):
    """So there is nothing that only some variants have to leave out: `programs` speak for all."""
    found = [dict(constants) for _, constants in variants(EVERY, dtype)]
    assert all(one["ALIGNED"] for one in found)
    assert all(one.get("EVEN", True) for one in found)
    assert all(out % one["BLOCK_O"] == 0 for one in found for out in one.get("OUTS", ()))
    assert len(programs(EVERY, dtype)) == (6 if dtype == torch.float32 else 12)


@pytest.mark.parametrize("model", SHAPES)
def test_a_model_has_few_variants(model):
    found = variants(SHAPES[model], torch.bfloat16)
    assert sum(kernel is triton_kernels.shrink for kernel, _ in found) == 2 * 3, "tiles, numbers of slices"
    assert len(found) == 2 * (3 + 3), "and for expand, shapes of the outputs: those of o are those of down"


def test_what_differs_from_layer_to_layer_is_not_specialized():
    for kernel in (triton_kernels.shrink, triton_kernels.expand):
        free = {p.name for p in kernel.params if p.do_not_specialize}
        assert {"table", "stride_slot", "starts", "records", "rows"} <= free
