"""What the tests of the contract share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vllm_mega.contract.tested import TESTED
from vllm_mega.contract.tree import Tree


@pytest.fixture(scope="session")
def site_packages() -> Path:
    """Where vLLM and transformers are installed; neither is imported."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


@pytest.fixture(scope="session")
def folders(site_packages: Path, repo: Path) -> dict[str, Path]:
    """By version: where the sources of the releases of vLLM lie that were tested, the installed one's too."""
    places = [site_packages, *sorted(repo.glob(".sources/vllm-*"))]
    found = {Tree(place).version("vllm"): place for place in places}
    missing = sorted(set(TESTED["vllm"]) - found.keys())
    assert not missing, f"there are no sources of vLLM {missing}: run `make sources`"
    return found


@pytest.fixture(scope="session", params=TESTED["vllm"])
def tree(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Tree:
    """The sources of each release of vLLM that was tested, one after the other."""
    return Tree(folders[request.param])
