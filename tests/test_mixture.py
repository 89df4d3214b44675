"""Mixture: canonical form, exact weights, round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mega.errors import MixtureError
from vllm_mega.mixture import EMPTY, PATH_PREFIX, Component, Mixture, is_mixture_path, quantise

A, B = "a" * 64, "b" * 64

parts = st.lists(
    st.tuples(
        st.sampled_from([A, B, "c" * 64]), st.just("/bank/x"), st.integers(-64, 64).map(lambda n: n / 64)
    ),
    max_size=4,  # so that no sum is out of range
)


@given(parts, st.randoms())
def test_the_order_of_components_changes_nothing(components, random):
    shuffled = list(components)
    random.shuffle(shuffled)
    assert Mixture(components) == Mixture(shuffled)
    assert Mixture(components).digest == Mixture(shuffled).digest


@given(parts)
def test_a_path_reads_back_as_the_same_mixture(components):
    mixture = Mixture(components)
    assert Mixture.from_path(mixture.path) == mixture


def test_equal_adapters_are_added_up_and_zero_weights_are_gone():
    mixture = Mixture([(A, "/x", 0.25), (B, "/y", 0.001), (A, "/x", 0.5)])
    assert mixture.components == (Component(A, "/x", 48),)
    assert mixture.components[0].weight == 0.75
    assert Mixture([(A, "/x", 0.5), (A, "/x", -0.5)]) == EMPTY


def test_different_weights_have_different_names():
    assert Mixture([(A, "/x", 0.5)]).name != Mixture([(A, "/x", 0.515625)]).name
    assert Mixture([(A, "/x", 0.5)]).name == Mixture([(A, "/elsewhere", 0.501)]).name


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 4.5, -5.0])
def test_bad_weights_are_refused(weight):
    with pytest.raises(MixtureError, match="finite number"):
        quantise(weight)


def test_a_sum_of_weights_out_of_range_is_refused():
    with pytest.raises(MixtureError, match=r"in \[-4, 4\]"):
        Mixture([(A, "/x", 3.0), (A, "/x", 3.0)])


@pytest.mark.parametrize(
    "path",
    [
        "/some/adapter",
        PATH_PREFIX + "nonsense",
        PATH_PREFIX + '[["' + B + '","/y",1],["' + A + '","/x",1]]',
        PATH_PREFIX + '[["' + A + '","/x",0]]',
    ],
)
def test_a_path_that_we_did_not_write_is_refused(path):
    with pytest.raises(MixtureError):
        Mixture.from_path(path)


def test_plain_paths_are_told_apart():
    assert is_mixture_path(Mixture([(A, "/x", 1.0)]).path)
    assert not is_mixture_path("/x")


def test_scaled():
    mixture = Mixture([(A, "/x", 0.5), (B, "/y", 1 / 64)])
    assert mixture.scaled(0.25) == Mixture([(A, "/x", 0.125)])
    assert mixture.scaled(1.0) == mixture
