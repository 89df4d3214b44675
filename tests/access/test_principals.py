"""Who may do what."""

from __future__ import annotations

import pytest

from vllm_mega.access.principals import OPERATOR, Principal
from vllm_mega.errors import ForbiddenError

ALICE = Principal("alice", "write", ("sea", "land"))


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", {"read", "write", "admin"})],
)
def test_a_role_may_do_what_those_before_it_may(role: str, allowed: set[str]) -> None:
    somebody = Principal("x", role, None)
    assert {wanted for wanted in ("read", "write", "admin") if somebody.may(wanted, "sea")} == allowed


def test_namespaces_bound_every_role() -> None:
    assert ALICE.may("write", "land")
    assert not ALICE.may("read", "air")
    assert OPERATOR.may("admin", "air")


def test_a_missing_right_is_named() -> None:
    with pytest.raises(ForbiddenError, match="needs the role admin, and this key has the role write"):
        ALICE.check("admin", "sea")
    with pytest.raises(ForbiddenError, match="not for the namespace 'air'"):
        ALICE.check("read", "air")
    ALICE.check("write", "sea")


def test_of_another_namespace_only_that_it_is_another_is_told() -> None:
    """Also to somebody whose role would not do."""
    said = []
    for role in ("read", "write", "admin"):
        with pytest.raises(ForbiddenError) as error:
            ALICE.check(role, "air")
        said.append(str(error.value))
    assert len(set(said)) == 1


def test_whoever_names_no_namespace_means_the_first() -> None:
    assert ALICE.home("default") == "sea"
    assert OPERATOR.home("default") == "default"
