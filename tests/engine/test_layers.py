"""Names of the layers that get slots; no engine here."""

from __future__ import annotations

from vllm_mega.engine.layers import full_names, shortest, with_slots

EVERY = [f"model.layers.{n}.{leaf}" for n in range(3) for leaf in ("attn.q", "attn.v", "mlp.up")]
SHAPES = dict.fromkeys(EVERY, (1, 1))


def test_a_last_name_is_said_where_it_means_nothing_else():
    upper = [name for name in EVERY if "layers.2" in name]
    assert shortest(upper, EVERY) == sorted(upper)
    ups = [name for name in EVERY if name.endswith("up")]
    assert shortest([*ups, "model.layers.1.attn.q"], EVERY) == ["model.layers.1.attn.q", "up"]
    assert shortest(EVERY, EVERY) == ["q", "up", "v"]


def test_what_was_said_is_what_gets_slots():
    for touched in (EVERY[:1], EVERY[2:7], EVERY):
        assert list(with_slots(SHAPES, shortest(touched, EVERY))) == touched
    for other in (None, [], ["qkv", "up"]):
        assert with_slots(SHAPES, other) == SHAPES
    assert full_names(None) == []
    assert full_names(["up", "model.layers.1.attn.q"]) == ["model.layers.1.attn.q"]
