"""What the model of the time knows: GPUs from their data sheets, models from their config.json, loads."""

from __future__ import annotations

from typing import NamedTuple

FEWEST_LAYERS = 10
"""With adapters by default, where a third of the layers is less."""


class Gpu(NamedTuple):
    """What a data sheet says of one GPU."""

    name: str
    """As torch names the device, in part."""
    bandwidth: float
    """Bytes a second of its memory."""
    flops: float
    """Multiplications and additions a second in bfloat16 on tensor cores, dense, sums in float32."""
    memory: float
    """Bytes."""
    source: str


GPUS = {
    "a100": Gpu("A100", 2039e9, 312e12, 80e9, "NVIDIA A100 data sheet, 80 GB SXM"),
    "h100": Gpu("H100", 3350e9, 989e12, 80e9, "NVIDIA H100 data sheet, SXM; dense is half of 1,979"),
    "h200": Gpu("H200", 4800e9, 989e12, 141e9, "NVIDIA H200 data sheet, SXM; dense is half of 1,979"),
    "l4": Gpu("L4", 300e9, 121e12, 24e9, "NVIDIA L4 data sheet; dense is half of 242"),
    "l40s": Gpu("L40S", 864e9, 362e12, 48e9, "NVIDIA L40S data sheet"),
    "rtx-4090": Gpu("RTX 4090", 1008e9, 165.2e12, 24e9, "NVIDIA Ada GPU architecture whitepaper, appendix A"),
}


class Linear(NamedTuple):
    """A linear layer of one GPU, with the slices that vLLM joins."""

    name: str
    inputs: int
    outs: tuple[int, ...]
    """Output features of the slices."""

    @property
    def weights(self) -> int:
        """Numbers."""
        return self.inputs * sum(self.outs)

    def adapter(self, rank: int) -> int:
        """Numbers of an adapter."""
        return rank * (self.inputs * len(self.outs) + sum(self.outs))


class Model(NamedTuple):
    """A decoder of Llama's plan."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def head(self) -> int:
        """Numbers of one attention head."""
        return self.hidden // self.heads

    def linears(self, gpus: int = 1) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer, as `gpus` share them by tensor parallelism.

        Raises:
            ValueError: they cannot share the heads.
        """
        if self.kv_heads % gpus or self.inner % gpus:
            raise ValueError(
                f"{gpus} GPUs cannot share {self.kv_heads} heads of keys and {self.inner} inner features; "
                "--tensor-parallel must divide both"
            )
        keys = self.kv_heads * self.head // gpus
        attention, inner = self.hidden // gpus, self.inner // gpus
        return (
            Linear("qkv", self.hidden, (attention, keys, keys)),
            Linear("o", attention, (self.hidden,)),
            Linear("gate_up", self.hidden, (inner, inner)),
            Linear("down", inner, (self.hidden,)),
        )

    def adapted(self, targets: str) -> tuple[int, tuple[str, ...]]:
        """How many layers have adapters, on which linear layers: `all`, or as training makes them."""
        if targets == "all":
            return self.layers, ("qkv", "o", "gate_up", "down")
        return min(self.layers, max(FEWEST_LAYERS, round(self.layers / 3))), ("gate_up", "down")


MODELS = {
    "llama-3.1-8b": Model(4096, 14336, 32, 32, 8, 128256),
    "qwen2.5-7b": Model(3584, 18944, 28, 28, 4, 152064),
    "llama-3.1-70b": Model(8192, 28672, 80, 64, 8, 128256),
    "smollm2-135m": Model(576, 1536, 30, 9, 3, 49152),
}


class Load(NamedTuple):
    """Tokens of a step."""

    name: str
    requests: int
    each: int
    """New tokens of every request."""

    @property
    def tokens(self) -> int:
        """Of all requests."""
        return self.requests * self.each

    def adapters(self, known: int, width: int) -> int:
        """How many different ones the step uses at most."""
        return min(known, self.requests * width)

    def block(self, known: int, width: int, rows: int) -> int:
        """How many different ones `rows` adjacent tokens use at most, but for the ends of prompts."""
        return min(known, min(self.requests, max(1, rows // self.each)) * width)


LOADS = (
    Load("decode 1", 1, 1),
    Load("decode 16", 16, 1),
    Load("decode 64", 64, 1),
    Load("decode 256", 256, 1),
    Load("prefill 512", 1, 512),
    Load("prefill 8192", 4, 2048),
)
