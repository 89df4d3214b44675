"""Dependencies point one way: the contracts of pyproject.toml, and what contracts cannot say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import vllm_mega
from vllm_mega.cli import command_help

MAY_IMPORT_VLLM = {"plugin", "http", "batch", "hook", "engine", "offline", "offline_chat"}
HEAVY = {"torch", "transformers", "vllm", "sentence_transformers", "peft", "openai"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "vllm_mega", include_external_packages=True, exclude_type_checking_imports=False, cache_dir=None
    )


def part(module: str) -> str:
    """`engine` for `vllm_mega.engine.slots`."""
    return ".".join(module.split(".")[1:2])


def test_contracts_hold(repo: Path) -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_only_the_parts_that_face_vllm_import_it(graph: grimp.ImportGraph) -> None:
    importers = {part(module) for module in graph.find_modules_that_directly_import("vllm")}
    assert "engine" in importers, "vLLM is not in the graph: this test looks at nothing"
    assert importers <= MAY_IMPORT_VLLM


def test_kernels_import_torch_only(graph: grimp.ImportGraph) -> None:
    kernels = {"vllm_mega.kernels", *graph.find_descendants("vllm_mega.kernels")}
    imported = set().union(*(graph.find_modules_directly_imported_by(module) for module in kernels))
    outside = {module.split(".")[0] for module in imported - kernels}
    assert "torch" in outside, "torch is not in the graph: this test looks at nothing"
    ours = {"vllm_mega.errors", "vllm_mega.home"}  # what to raise, and where to keep what was compiled
    assert {m for m in imported - kernels if m.startswith("vllm_mega")} <= ours
    assert outside - sys.stdlib_module_names <= {"numpy", "torch", "triton", "vllm_mega"}


def test_what_other_programs_take_knows_http_alone(graph: grimp.ImportGraph) -> None:
    clients = graph.find_descendants("vllm_mega.clients")
    imported = set().union(*(graph.find_modules_directly_imported_by(module) for module in clients)) - clients
    outside = {module.split(".")[0] for module in imported if not module.startswith("vllm_mega")}
    assert {m for m in imported if m.startswith("vllm_mega")} <= {"vllm_mega.config", "vllm_mega.errors"}
    assert outside - sys.stdlib_module_names == {"httpx", "langgraph"}


def test_engine_never_reaches_the_gate(graph: grimp.ImportGraph) -> None:
    assert graph.find_descendants("vllm_mega.engine")
    assert not graph.chain_exists("vllm_mega.engine", "vllm_mega.gate", as_packages=True)


@pytest.mark.parametrize("command", ["", *command_help()])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from vllm_mega.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"sys.exit(str(sorted({HEAVY} & set(sys.modules)) or ''))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *filter(None, [command]), "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (1, "\n"), run.stderr


def test_public_names_are_there() -> None:
    assert sorted([*vllm_mega._MODULES, "__version__"]) == sorted(vllm_mega.__all__)
    light = [name for name, module in vllm_mega._MODULES.items() if module != "offline"]
    assert [getattr(vllm_mega, name).__name__ for name in light] == light
    assert importlib.util.find_spec("vllm_mega.offline")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        vllm_mega.Nothing  # noqa: B018
