"""A mixture's start: read from the request, refused at the door, kept by both model runners."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from vllm_mega.engine.adapters import check_request, to_lora_request
from vllm_mega.engine.routing import token_ids
from vllm_mega.engine.runners import StartedBatch
from vllm_mega.engine.start import START, acting_start, block_keys, start_of_request, starting_at
from vllm_mega.engine.upstream import replacements
from vllm_mega.engine.upstream.runner_patches import RUNNER_PATCHES
from vllm_mega.errors import ConfigError, MixtureError
from vllm_mega.mixture import Mixture

MIXTURE = to_lora_request(Mixture([("a" * 64, "/adapters/a", 1.0)]))
ELSEWHERE = to_lora_request(Mixture([("a" * 64, "held:7:3:4:/adapters/a", 1.0)]))
PLAIN = LoRARequest("plain", 1, "/adapters/plain")


def params(start=None, **more) -> SamplingParams:
    return SamplingParams(extra_args=more | ({} if start is None else {START: start}))


def test_a_request_says_where_its_mixture_starts():
    assert start_of_request(SamplingParams(extra_args=starting_at(7))) == 7
    assert start_of_request(params(0)) == 0
    assert start_of_request(params(other="thing")) == 0
    assert start_of_request(SamplingParams()) == start_of_request(None) == 0


@pytest.mark.parametrize("bad", [-1, "3", 2.0, True, None, [1]])
def test_what_is_no_position_is_refused(bad):
    with pytest.raises(MixtureError, match="an integer from 0 up, got"):
        start_of_request(SamplingParams(extra_args={START: bad}))


def test_only_mixtures_have_a_start_and_what_is_generated_always_uses_them():
    assert acting_start(MIXTURE, params(7), 20) == 7
    assert acting_start(MIXTURE, params(25), 20) == 20
    assert acting_start(PLAIN, params(7), 20) == acting_start(None, params("x"), 20) == 0


# --- the door -----------------------------------------------------------------------------------


def engine_request(start, lora=MIXTURE, tokens=20, **more):
    known = {"prompt_token_ids": [1] * tokens, "prompt_embeds": None, "resumable": False}
    return SimpleNamespace(sampling_params=params(start), lora_request=lora, **(known | more))


def test_a_start_within_the_prompt_is_let_in():
    for start in (None, 0, 1, 20):
        check_request(engine_request(start), slots=1)
    embeds = {"prompt_token_ids": None, "prompt_embeds": np.zeros((9, 2))}
    check_request(engine_request(9, **embeds), slots=1)
    with pytest.raises(MixtureError, match="the prompt has 9 tokens"):
        check_request(engine_request(10, **embeds), slots=1)


def test_a_start_that_cannot_be_is_refused():
    with pytest.raises(MixtureError, match=r"is 21, but the prompt has 20 tokens.*from 0 to that number"):
        check_request(engine_request(21), slots=1)
    with pytest.raises(MixtureError, match="got '3'"):
        check_request(engine_request("3"), slots=1)
    with pytest.raises(MixtureError, match="in parts can only have 0"):
        check_request(engine_request(1, resumable=True), slots=1)
    check_request(engine_request(0, resumable=True), slots=1)


def test_others_are_not_asked_for_a_start():
    check_request(engine_request(99, PLAIN), slots=1)
    check_request(engine_request("x", None), slots=1)


def door(request, config):
    processor = SimpleNamespace(
        vllm_config=SimpleNamespace(additional_config=config), lora_config=SimpleNamespace(max_loras=1)
    )
    return replacements.door(lambda self, *args: request)(processor, "id")


@pytest.mark.parametrize("name", [MIXTURE.lora_name, "disguised"])
def test_the_door_asks_whatever_carries_a_mixture(name):
    config = {"mega": {"bank": "b"}}
    lora = LoRARequest(name, 1, MIXTURE.lora_path)
    with pytest.raises(MixtureError):
        door(engine_request(21, lora), config)
    with pytest.raises(ConfigError, match="without vllm_mega's settings"):
        door(engine_request(0, lora), {})
    plain = engine_request(21, PLAIN)
    assert door(plain, {}) is plain


# --- blocks -------------------------------------------------------------------------------------


def keys(start, begin, end, lora=MIXTURE, others=()):
    request = SimpleNamespace(lora_request=lora, sampling_params=params(start), num_prompt_tokens=100)
    theirs = (("lora", lora.lora_name, lora.lora_path),) if lora else ()
    return block_keys((*theirs, *others) or None, request, begin, end)


def test_a_block_has_the_mixtures_key_only_from_start_on():
    own = ("lora", MIXTURE.lora_name)
    assert keys(32, 0, 16) is keys(32, 16, 32) is None
    assert keys(32, 32, 48) == keys(32, 48, 64) == (own,)
    assert keys(33, 16, 32) is None
    assert keys(33, 32, 48) == (own, (START, "mega_start:1"))
    assert keys(47, 32, 48) == (own, (START, "mega_start:15"))
    assert keys(33, 48, 64) == keys(0, 0, 16) == keys(None, 0, 16) == (own,)


def test_other_keys_stay():
    salt, image = ("cache_salt", "s"), ("mm", "image", 3)
    assert keys(32, 0, 16, others=(image, salt)) == (image, salt)
    assert keys(0, 0, 16, others=(salt,)) == (("lora", MIXTURE.lora_name), salt)


def test_equal_mixtures_share_blocks_wherever_their_adapters_are_held():
    assert ELSEWHERE.lora_path != MIXTURE.lora_path
    assert keys(0, 0, 16, ELSEWHERE) == keys(0, 0, 16)


def test_plain_lora_and_base_requests_have_vllms_keys():
    assert keys(32, 0, 16, PLAIN) == (("lora", "plain", "/adapters/plain"),)
    assert keys(32, 0, 16, None) is None


# --- tokens -------------------------------------------------------------------------------------


def by_position(ids, computed, scheduled, starts):
    rows = zip(ids, computed, scheduled, starts, strict=True)
    return [i if p >= s else 0 for i, c, n, s in rows for p in range(c, c + n)]


ROW = st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 40), st.integers(0, 90))


@given(st.lists(ROW, min_size=1, max_size=6))
def test_a_token_has_an_adapter_from_start_on(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    assert token_ids(*columns).tolist() == by_position(*columns)


def first_runner(*rows):
    """A batch of (id, lora, start, prompt length, computed) as the first runner has it."""
    requests = {
        str(n): SimpleNamespace(lora_request=lora, sampling_params=params(start), num_prompt_tokens=prompt)
        for n, (_, lora, start, prompt, _) in enumerate(rows)
    }
    room = [0] * 2  # arrays are longer than the batch
    ids, computed = np.array([r[0] for r in rows] + room), np.array([r[4] for r in rows] + room)

    def stock(scheduled, sampled):
        own = ids[: len(rows)]
        return tuple(own.repeat(sampled)), tuple(own.repeat(scheduled)), {r[1] for r in rows if r[1]}

    batch = SimpleNamespace(
        num_reqs=len(rows),
        req_ids=list(requests),
        request_lora_mapping=ids,
        num_computed_tokens_cpu=computed,
        num_prompt_tokens=np.array([r[3] for r in rows] + room),
        make_lora_inputs=stock,
    )
    return StartedBatch(batch, requests)


def test_the_first_runner_routes_tokens_before_start_to_the_base_model():
    batch = first_runner(
        (5, MIXTURE, 3, 10, 0),  # straddles
        (5, MIXTURE, 8, 10, 0),  # not there yet
        (7, PLAIN, 3, 10, 0),
        (0, None, 3, 10, 0),
        (5, MIXTURE, 3, 10, 10),  # generates
    )
    prompts, tokens, loras = batch.make_lora_inputs(np.array([4, 4, 2, 2, 3]), np.array([1, 1, 1, 1, 3]))
    assert tokens == (0, 0, 0, 5, 0, 0, 0, 0, 7, 7, 0, 0, 5, 5, 5)
    assert prompts == (5, 0, 7, 0, 5, 5, 5)
    assert loras == {MIXTURE, PLAIN}


def test_a_step_that_only_generates_does_not_ask_for_starts():
    batch = first_runner((5, MIXTURE, 3, 10, 10), (0, None, None, 4, 4))
    batch._requests = None
    assert batch.make_lora_inputs(np.array([1, 1]), np.array([1, 1]))[1] == (5, 0)


class Runner:
    """The second runner, as far as it takes requests in."""

    def __init__(self) -> None:
        from vllm.v1.worker.gpu.lora_utils import LoraState

        self.lora_state = LoraState(4)
        self.adaptive_verification = self.pooling_runner = self.encoder_cache = self.sampler = None
        self.is_last_pp_rank = False
        self.model_state = SimpleNamespace(add_request=lambda *_: None, apply_staged_writes=lambda: None)
        self.block_tables = SimpleNamespace(append_block_ids=lambda *_, **__: None)
        self.req_states = SimpleNamespace(
            req_id_to_index={},
            num_computed_tokens_np=np.zeros(4, np.int32),
            add_request=self._place,
            apply_staged_writes=lambda: None,
        )

    def _place(self, req_id, num_computed_tokens, **_):
        index = next(n for n in (3, 1, 0, 2) if n not in self.req_states.req_id_to_index.values())
        self.req_states.req_id_to_index[req_id] = index
        self.req_states.num_computed_tokens_np[index] = num_computed_tokens

    def _remove_request(self, req_id):
        self.req_states.req_id_to_index.pop(req_id, None)
        self.lora_state.remove_request(req_id)

    def step(self, new=(), **scheduled):
        """The adapter ids of sampled tokens and of tokens, `new` being (id, lora, start, computed)."""
        from vllm.v1.core.sched.output import NewRequestData
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        data = [
            NewRequestData(
                req_id, [1] * 10, [], params(start), None, ([0],), computed, lora, prefill_token_ids=[1] * 10
            )
            for req_id, lora, start, computed in new
        ]
        GPUModelRunner.add_requests(self, SimpleNamespace(scheduled_new_reqs=data))
        index = np.array([self.req_states.req_id_to_index[i] for i in scheduled])
        counts = np.array(list(scheduled.values()))
        inputs = self.lora_state.make_lora_inputs(list(scheduled), index, counts)
        self.req_states.num_computed_tokens_np[index] += counts
        return inputs[:2]


@pytest.fixture
def second() -> Runner:
    for patch in RUNNER_PATCHES:
        patch.apply()
    return Runner()


def test_the_second_runner_routes_tokens_before_start_to_the_base_model(second: Runner):
    mixture = LoRARequest(MIXTURE.lora_name, 5, MIXTURE.lora_path)
    new = [("a", mixture, 3, 0), ("b", PLAIN, 3, 0), ("c", mixture, None, 0), ("d", None, 3, 0)]
    assert second.step(new, b=2, a=2, c=1, d=1) == ((1, 0, 5, 0), (1, 1, 0, 0, 5, 0))
    assert second.step(a=4, c=1) == ((5, 5), (0, 5, 5, 5, 5))
    second._remove_request("a")  # preempted, and computed again by another request's place
    assert second.step([("e", mixture, 9, 4)], e=6)[1] == (0, 0, 0, 0, 0, 5)
    second._remove_request("e")
    assert second.step([("a", mixture, 3, 2)], a=2)[1] == (0, 5)


def test_the_second_runner_forgets_starts_with_their_requests(second: Runner):
    mixture = LoRARequest(MIXTURE.lora_name, 5, MIXTURE.lora_path)
    second.step([("a", mixture, 8, 0)], a=1)
    place = second.req_states.req_id_to_index["a"]
    second._remove_request("a")
    assert second.step([("b", mixture, None, 0)], b=2)[1] == (5, 5)
    assert second.req_states.req_id_to_index["b"] == place
