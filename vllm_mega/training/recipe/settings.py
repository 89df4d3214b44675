"""What a user may choose about training: frozen, refusing bad values when they are made (see `recipe`)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vllm_mega.errors import ConfigError

AdapterDtype = Literal["bfloat16", "float32"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of an adapter and how it is trained."""

    rank: Annotated[int, Meta(description="rank of the adapters")] = 4
    alpha: Annotated[float | None, Meta(description="the adapter is scaled by alpha / rank")] = None
    """None: alpha is the rank, the scale 1."""
    modules: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="which linear layers have adapters: mlp, attention, all, or "
            "last parts of their names, with commas"
        ),
    ] = None
    """None: those of the MLP, as the architecture calls them; of attention in a mixture of experts."""
    layers: Annotated[int | None, Meta(description="how many layers have adapters, from the top")] = None
    """A model that has fewer gets all. None: the upper third, but ten where there are so many."""
    learning_rate: Annotated[
        float, Meta(description="how far a step goes, as a part of what the layers compute")
    ] = 1e-2
    """See `alignment`."""
    max_steps: Annotated[
        int,
        Meta(
            description="most steps for a memory, which ends before when it is learnt, or when no step helps"
        ),
    ] = 100
    seconds: Annotated[
        float | None,
        Meta(description="most seconds for a memory, as its share of the time of those trained beside it"),
    ] = None
    """None: as long as it takes."""
    batch: Annotated[int, Meta(description="examples a step")] = 8
    jobs: Annotated[
        int, Meta(description="memories that are trained side by side; fewer when memory is short")
    ] = 8
    seed: Annotated[int, Meta(description="the same seed gives the same adapters on the same machine")] = 0
    dtype: Annotated[AdapterDtype, Meta(description="type of the exported tensors")] = "bfloat16"
    """Training computes in the model's own type either way."""
    chat_template: str = ""
    """Jinja, in place of the model's own chat template; empty: the bank's, or else the model's own."""

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 512, f"rank must be 1..512, got {self.rank}")
        _require(
            self.alpha is None or (math.isfinite(self.alpha) and self.alpha > 0),
            f"alpha must be positive, got {self.alpha}",
        )
        if self.modules is not None:
            _require(
                bool(self.modules) and all(name.isidentifier() for name in self.modules),
                "modules must name linear layers such as up_proj, or be mlp, attention or all, "
                f"got {', '.join(self.modules) or 'none'}",
            )
            _require(len(set(self.modules)) == len(self.modules), f"modules are named twice: {self.modules}")
        _require(self.layers is None or self.layers >= 1, f"layers must be at least 1, got {self.layers}")
        _require(
            math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1,
            f"learning_rate must be in (0, 1], got {self.learning_rate}",
        )
        _require(2 <= self.max_steps <= 10_000, f"max_steps must be 2..10000, got {self.max_steps}")
        _require(
            self.seconds is None or (math.isfinite(self.seconds) and self.seconds > 0),
            f"seconds must be positive, got {self.seconds}",
        )
        _require(2 <= self.batch <= 256, f"batch must be 2..256, got {self.batch}")
        _require(1 <= self.jobs <= 256, f"jobs must be 1..256, got {self.jobs}")
        _require(0 <= self.seed < 2**63, f"seed must be 0..2**63-1, got {self.seed}")

    @property
    def scaling(self) -> float:
        """What B A x is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank
