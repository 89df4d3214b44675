"""Every name of the contract is missed when it is gone, and noticed when it is otherwise."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from tests.contract.invented import changes, elsewhere, write
from vllm_mega.contract.checking import require
from vllm_mega.contract.installed import Installed
from vllm_mega.contract.judging import View, findings
from vllm_mega.contract.tested import TESTED
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream.whole import CONTRACT
from vllm_mega.errors import UpstreamError

USES = tuple(use for uses in CONTRACT.values() for use in uses)


@pytest.fixture
def views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[View, ...]:
    """What lies in `tmp_path`, read and imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return Tree(tmp_path), Installed()


@pytest.mark.parametrize("number", range(len(USES)), ids=lambda n: f"{n}-{USES[n].owner}")
def test_a_package_is_what_is_expected_or_the_name_that_is_not_is_told(
    number: int, tmp_path: Path, views: tuple[View, ...]
) -> None:
    asked = elsewhere(USES[number], f"whole{number}")
    write(tmp_path, asked)
    for view in views:
        assert findings([asked], view) == []
    for n, change in enumerate(changes(USES[number])):
        asked = elsewhere(USES[number], f"broken{number}x{n}")
        write(tmp_path, asked, change)
        name = change.pin._replace(use=asked).full_name
        for view in views:
            assert [one.name for one in findings([asked], view)] == [name], (change.how, type(view))


def test_a_module_and_a_class_that_are_gone_are_told_once(tmp_path: Path, views: tuple[View, ...]) -> None:
    use = Use("gone.away:Thing", by="a", why="w", reads="x y")
    for view in views:
        assert [str(one) for one in findings([use], view)] == [
            "gone.away:Thing is gone, expected it to be there (used by a)"
        ]
    write(tmp_path, Use("half.away:Another", by="a", why="w"))
    for view in views:
        (one,) = findings([dataclasses.replace(use, owner="half.away:Thing")], view)
        assert one.name == "half.away:Thing"


def test_names_are_found_in_bases_and_through_the_modules_that_pass_them_on(
    tmp_path: Path, views: tuple[View, ...]
) -> None:
    package = tmp_path / "passed"
    package.mkdir()
    (package / "__init__.py").write_text("from .on import Thing as Known\n")
    (package / "on.py").write_text(
        "from typing import Generic, TypeVar\n"
        "from passed.base import Base\n"
        "T = TypeVar('T')\n"
        "class Thing(Base, Generic[T]):\n    pass\n"
    )
    (package / "base.py").write_text(
        "class Base:\n"
        "    def __init__(self):\n        self.size = 1\n        self.promised: int\n"
        "    @classmethod\n    async def ask(cls, n, *, m=1): ...\n"
    )
    use = Use(
        "passed:Known", by="a", why="w", reads="size", calls={"ask": "async n m="},
        overrides={"ask": "async cls n * m="},
    )  # fmt: skip
    for view in views:
        assert findings([use], view) == []
        assert len(findings([dataclasses.replace(use, calls={"ask": "async n m"})], view)) == 1
        assert len(findings([dataclasses.replace(use, calls={"ask": "async m="})], view)) == 1
        assert len(findings([dataclasses.replace(use, calls={"ask": "n m="})], view)) == 1
        assert len(findings([dataclasses.replace(use, reads="promised")], view)) == 1


def test_the_error_says_what_was_found_what_was_expected_and_what_was_tested(
    tmp_path: Path, views: tuple[View, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TESTED, "invented", ("0.31.0", "0.32.0"))
    use = Use("invented.core:Core", by="engine.x", why="w", overrides={"run": "self step"}, reads="size")
    write(tmp_path, dataclasses.replace(use, overrides={"run": "self step late="}, reads=""))
    (tmp_path / "invented" / "__init__.py").write_text("__version__ = '0.33.0'\n")
    with pytest.raises(UpstreamError) as caught:
        require([use])
    assert str(caught.value).split("\n  ") == [
        "invented 0.33.0 is not what this vllm_mega was written for: install invented 0.31.0 or 0.32.0, with "
        "which it was tested, or a vllm_mega for this one",
        "invented.core:Core.run takes (self step late=), expected (self step) (used by engine.x)",
        "invented.core:Core.size is gone, expected it to be there (used by engine.x)",
    ]
    require([dataclasses.replace(use, overrides={"run": "self step late="}, reads="")])
