"""What vLLM's two model runners do with a step's tokens: which adapter acts on them, and what is drawn.

No token before its request's start has an adapter. Both runners repeat a request's adapter id over its
tokens; here those before start lose it, by position alone: chunks, preemption and recomputation need no
thought. A step without LoRA, or in which all requests are past their prompts, is left to vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_mega.engine.routing import token_ids
from vllm_mega.engine.start import acting_start

Inputs = tuple[tuple[int, ...], tuple[int, ...], Any]
"""Adapter ids of the sampled tokens, of all tokens, and the LoRARequests of the step."""


def started(
    inputs: Inputs,
    ids: NDArray[Any],
    computed: NDArray[Any],
    scheduled: NDArray[Any],
    sampled: NDArray[Any],
    starts: NDArray[Any],
) -> Inputs:
    """What vLLM says of a step, without adapters for the tokens before start.

    Args:
        inputs: what it says.
        ids: [N] adapter id of every request of the step.
        computed: [N] position of its first token in the step.
        scheduled: [N] number of its tokens in the step.
        sampled: [N] number of its tokens that are sampled from, the last ones.
        starts: [N] position from which its adapter acts.
    """
    if (starts <= computed).all():
        return inputs
    last = np.where(computed + scheduled > starts, ids, 0)
    tokens = token_ids(ids, computed, scheduled, starts)
    return tuple(last.repeat(sampled).tolist()), tuple(tokens.tolist()), inputs[2]


class StartedBatch:
    """The first runner's batch, as `set_active_loras` asks it."""

    def __init__(self, batch: Any, requests: Mapping[str, Any]) -> None:
        """`requests`: the runner's state of every request, by id."""
        self._batch, self._requests = batch, requests

    def make_lora_inputs(
        self, num_scheduled_tokens: NDArray[Any], num_sampled_tokens: NDArray[Any]
    ) -> Inputs:
        """A step's adapter ids, given the tokens and the sampled tokens of its requests, [N] each."""
        batch, n = self._batch, self._batch.num_reqs
        steps = num_scheduled_tokens, num_sampled_tokens
        inputs: Inputs = batch.make_lora_inputs(*steps)
        computed = batch.num_computed_tokens_cpu[:n]
        if not inputs[2] or (computed >= batch.num_prompt_tokens[:n]).all():
            return inputs
        states = [self._requests[request_id] for request_id in batch.req_ids]
        starts = np.array(
            [acting_start(s.lora_request, s.sampling_params, s.num_prompt_tokens) for s in states]
        )
        return started(inputs, batch.request_lora_mapping[:n], computed, *steps, starts)


def note_starts(runner: Any, scheduler_output: Any) -> None:
    """Let the second runner's `LoraState` know new requests' starts, and where their tokens are counted."""
    state, requests = runner.lora_state, runner.req_states
    if not hasattr(state, "starts"):
        state.starts = np.zeros_like(state.lora_ids)
        state.computed = requests.num_computed_tokens_np  # stays where it is: written in place
    for new in scheduler_output.scheduled_new_reqs:
        start = acting_start(new.lora_request, new.sampling_params, new.prompt_len)
        state.starts[requests.req_id_to_index[new.req_id]] = start


def second_runner_inputs(state: Any, inputs: Inputs, index: NDArray[Any], scheduled: NDArray[Any]) -> Inputs:
    """What the second runner's `LoraState` should say where it says `inputs`.

    Args:
        state: the LoraState.
        inputs: what it says.
        index: [N] where the step's requests stand in its arrays.
        scheduled: [N] number of their tokens in the step.
    """
    ids, computed, starts = state.lora_ids[index], state.computed[index], state.starts[index]
    return started(inputs, ids, computed, scheduled, np.ones_like(ids), starts)


@contextmanager
def without_draws_to_discard(runner: Any) -> Iterator[None]:
    """While the first runner samples: requests whose prompts go on in a later step leave their generators be.

    It samples for them, too, and throws that away. Stock then winds a request's generator (one that came
    with a seed) back, which those of a CPU cannot, so a seed and a prompt in two chunks end the engine.
    """
    batch = runner.input_batch
    discarded = np.flatnonzero(runner.discard_request_mask.np[: batch.num_reqs]).tolist()
    kept = {row: batch.generators.pop(row) for row in discarded if row in batch.generators}
    try:
        yield
    finally:
        batch.generators.update(kept)
