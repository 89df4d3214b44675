"""What we override and patch, in every release: ours takes what theirs takes, and a change is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.conforming import Override, conforms, of_classes, of_contract
from vllm_mega.contract.judging import Owner, findings
from vllm_mega.contract.signature import Parameter, Signature
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Pin, holding, pins
from vllm_mega.engine.upstream.whole import CONTRACT

VLLM = CONTRACT["vllm"]
AWAITED = {"http.door:KeyCheck.__call__"}
"""Ours is `async` where theirs gives back what its caller awaits."""
DUNDERS = {"__eq__", "__init__"}
"""Called by Python, by position, or through our own classes alone."""
REPLACED = [pin for use in VLLM for pin in pins(use) if pin.kind in ("overridden", "patched")]
LATE = Parameter("late")


def test_overrides_take_whatever_their_originals_take(tree: Tree) -> None:
    wrong, right = [], []
    for override in sorted({*of_classes(), *of_contract(VLLM)}, key=str):
        theirs = original(override, tree)
        if theirs is not None and override.name not in DUNDERS:
            fits = conforms(override.signature, theirs)
            (right if fits else wrong).append(f"{override} is called with ({theirs.words})")
    assert wrong == []
    assert len(right) > 30


def original(override: Override, tree: Tree) -> Signature | None:
    owner = tree.find(override.owner)
    assert owner is not None
    theirs = owner.signature(override.name)
    if theirs is not None and f"{override.ours}.{override.name}" in AWAITED:
        return theirs._replace(is_async=True)
    return theirs


def test_every_override_of_the_contract_is_looked_at() -> None:
    named = {(pin.use.owner, pin.name) for pin in REPLACED if pin.kind == "overridden"}
    assert named == {(one.owner, one.name) for one in of_contract(VLLM)}
    assert len(named) > 30


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ("a b=", "a b=", True),
        ("a *args **kwargs", "a b= * c=", True),
        ("a b= c=", "a b=", True),
        ("a b", "a b=", False),
        ("a", "a b=", False),
        ("b a", "a b", False),
        ("a * b=", "a b=", False),
        ("a c", "a b", False),
        ("a", "a **kwargs", False),
        ("a b", "a", False),
        ("async a", "a", False),
    ],
)
def test_conforming(ours: str, theirs: str, fits: bool) -> None:
    assert conforms(written(ours), written(theirs)) is fits


def written(words: str) -> Signature:
    """A method from the words of its parameters."""
    found, alone = [Parameter("self")], False
    for word in words.split():
        name = word.strip("*=")
        alone = alone or word.startswith("*")
        stars = word[: word.count("*")] if name else ""
        if name and name != "async":
            found.append(Parameter(name, not word.endswith("="), alone and not stars, stars))
    return Signature(tuple(found), words.startswith("async"))


# --- a change of theirs -----------------------------------------------------------------------------------


def changed(signature: Signature, kind: str) -> Iterator[Signature]:
    """The same with one thing otherwise."""
    *others, last = signature.parameters
    yield signature._replace(parameters=(*signature.parameters, LATE))
    yield signature._replace(parameters=(*signature.parameters, LATE._replace(required=False)))
    yield signature._replace(parameters=tuple(others))
    yield signature._replace(parameters=(*others, last._replace(name="renamed")))
    if kind == "overridden" and not last.stars:
        yield signature._replace(is_async=not signature.is_async)
        yield signature._replace(parameters=(*others, last._replace(required=not last.required)))


class Changed:
    """A tree in which one function of one owner has another signature."""

    def __init__(self, tree: Tree, pin: Pin, signature: Signature | None) -> None:
        self._tree, self._pin, self._signature = tree, pin, signature

    def find(self, owner: str) -> Owner | None:
        found = self._tree.find(owner)
        assert found is not None
        if owner == self._pin.use.owner:
            stock = found.signature
            found.signature = lambda name: self._signature if name == self._pin.name else stock(name)  # type: ignore[method-assign]
        return found


@pytest.mark.parametrize("pin", REPLACED, ids=lambda pin: pin.full_name)
def test_a_changed_signature_is_told_and_nothing_else(pin: Pin, tree: Tree) -> None:
    if pin.use not in holding([pin.use], tree.version):
        return
    owner = tree.find(pin.use.owner)
    assert owner is not None
    signature = owner.signature(pin.name)
    if signature is None:
        assert pin.name in ("__eq__", "__hash__")  # made by msgspec, or Python's own
        return
    assert findings([pin.use], tree) == []
    for other in (None, *changed(signature, pin.kind)):
        told = findings([pin.use], Changed(tree, pin, other))
        assert [one.name for one in told] == [pin.full_name], other
