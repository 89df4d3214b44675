"""What differs between releases of vLLM: each gets what it knows, and is asked for its own."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.contract.invented import write
from vllm_mega.contract.checking import require
from vllm_mega.contract.judging import findings
from vllm_mega.contract.tested import TESTED, release, wanted
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use, holding
from vllm_mega.engine.upstream import releases
from vllm_mega.engine.upstream.whole import CONTRACT
from vllm_mega.errors import UpstreamError

VLLM = CONTRACT["vllm"]
OPTIONS = {"0.32": "vllm.entrypoints.launchers.cli_args", "0.33": "vllm.entrypoints.common.cli_args"}
ENVIRONMENT = {
    "0.32": "vllm.entrypoints.serve.utils.api_utils",
    "0.33": "vllm.entrypoints.common.startup",
}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.32.0", "0.32"), ("0.32.1", "0.32"), ("0.33.0+cu130", "0.33"), ("0.34.0", "0.33"), ("dev", "0.33")],
)
def test_a_version_is_taken_as_a_tested_release(version: str, expected: str) -> None:
    assert release("vllm", version) == expected


def test_tested_versions_are_told() -> None:
    assert wanted("vllm") == "0.32.0 or 0.33.0"
    assert wanted("transformers") == "5.19.0"


def test_what_one_release_has_is_asked_of_it_alone() -> None:
    everywhere = [use for use in VLLM if not use.only]
    for version, other in (("0.32", "0.33"), ("0.33", "0.32")):
        held = list(holding(VLLM, lambda package, version=version: f"{version}.0"))
        assert {use.only for use in held} == {"", version}
        assert [use for use in held if not use.only] == everywhere
        assert len(held) + sum(use.only == other for use in VLLM) == len(VLLM)


@pytest.mark.parametrize("version", TESTED["vllm"])
def test_a_release_is_not_what_the_contract_says_of_the_other(version: str, folders: dict[str, Path]) -> None:
    tree = Tree(folders[version])
    for use in VLLM:
        if use.only:
            asked = use in holding([use], tree.version)
            holds = asked or use.owner == "vllm.outputs:RequestError"  # 0.32 has it, and does not use it so
            assert (findings([use], tree) == []) is holds, use.owner


def test_a_start_asks_the_installed_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TESTED, "fictional", ("1.0.0", "1.1.0"))
    there = Use("fictional.core:Core", by="engine.x", why="w", reads="size")
    write(tmp_path, there)
    (tmp_path / "fictional" / "__init__.py").write_text("__version__ = '1.1.3'\n")
    gone = dataclasses.replace(there, reads="length")
    require([there, dataclasses.replace(gone, only="1.0")])
    with pytest.raises(UpstreamError, match=r"install fictional 1.0.0 or 1.1.0.*\n.*length is gone"):
        require([there, dataclasses.replace(gone, only="1.1")])


# --- what copes with it -----------------------------------------------------------------------------------


class Fake(NamedTuple):
    """A vLLM that has nothing but what `releases` asks for."""

    release: str
    calls: list[str]


@pytest.fixture(params=["0.32", "0.33"])
def fake(request: pytest.FixtureRequest) -> Iterator[Fake]:
    vllm = Fake(request.param, [])
    real = taken_out()  # in place: an import looks into this very dictionary
    module("vllm").__version__ = f"{vllm.release}.0"
    module("vllm.outputs").RequestError = SimpleNamespace
    module(OPTIONS[vllm.release])
    module(ENVIRONMENT[vllm.release]).cli_env_setup = lambda: vllm.calls.append("cli_env_setup")
    yield vllm
    taken_out()
    sys.modules.update(real)


def taken_out() -> dict[str, ModuleType]:
    """All modules of vLLM, which are not there any more."""
    names = [name for name in sys.modules if name.split(".")[0] == "vllm"]
    return {name: sys.modules.pop(name) for name in names}


def module(name: str) -> Any:
    """A module that is there from now on, and its parents."""
    if name not in sys.modules:
        made = sys.modules[name] = ModuleType(name)
        made.__path__ = []
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(module(parent), last, made)
    return sys.modules[name]


def test_options_and_environment_are_where_the_release_has_them(fake: Fake) -> None:
    assert releases.server_options() is sys.modules[OPTIONS[fake.release]]
    releases.prepare_environment()
    assert fake.calls == ["cli_env_setup"]


def test_a_request_ends_as_the_release_ends_it(fake: Fake) -> None:
    errors: Any = set() if fake.release == "0.32" else {}
    releases.end_with_error(SimpleNamespace(grammar_compile_error_reqs=errors), "one")
    said = SimpleNamespace(code="internal_error", message="Internal server error")
    assert errors == ({"one"} if fake.release == "0.32" else {"one": said})
