"""Models: by what name they are found, what their checkpoints hold, and what their architectures are called.

`resolve` finds them (`recipes` makes the defaults), `checkpoint` reads configs and headers without torch,
`fingerprint` names them by what they compute (`functional`), `refusals` says what cannot be trained,
`architectures` has every name that differs between architectures.
"""

from vllm_mega.home import home
from vllm_mega.models.base_weights import BaseWeights
from vllm_mega.models.checkpoint import linear_shapes, model_config, weight_bytes
from vllm_mega.models.fingerprint import fingerprint
from vllm_mega.models.resolve import (
    BASE_PREFIX,
    DEFAULT_EMBEDDER,
    DEFAULT_MODEL,
    find_here,
    resolve_embedder,
    resolve_model,
    resolve_recorded,
    stable_name,
)

__all__ = [
    "BASE_PREFIX",
    "DEFAULT_EMBEDDER",
    "DEFAULT_MODEL",
    "BaseWeights",
    "find_here",
    "fingerprint",
    "home",
    "linear_shapes",
    "model_config",
    "resolve_embedder",
    "resolve_model",
    "resolve_recorded",
    "stable_name",
    "weight_bytes",
]
