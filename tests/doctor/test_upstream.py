"""The contract, as doctor tells it."""

from __future__ import annotations

from pathlib import Path

from tests.contract.invented import write
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use
from vllm_mega.doctor.upstream import SHOWN, judged, upstream

USE = Use("vllm.core:Core", by="engine.x", why="w", overrides={"run": "self step"}, reads="size")


def test_what_is_installed_here_is_what_we_rely_on() -> None:
    found = list(upstream())
    assert [(one.name, one.status) for one in found] == [("vllm inside", "ok"), ("transformers inside", "ok")]


def test_names_are_counted(tmp_path: Path) -> None:
    write(tmp_path, USE)
    finding = judged("vllm", [USE], Tree(tmp_path), tmp_path)
    assert (finding.status, finding.found) == ("ok", "2 names are what we rely on")


def test_what_differs_is_named_and_where_all_of_it_is(tmp_path: Path) -> None:
    write(tmp_path, USE)
    gone = [Use(f"vllm.gone{n}", by="engine.y", why="w") for n in range(SHOWN + 2)]
    finding = judged("vllm", [USE, *gone], Tree(tmp_path), tmp_path)
    assert (finding.name, finding.status) == ("vllm inside", "problem")
    assert finding.found.startswith(
        "vllm.gone0 is gone, expected it to be there (used by engine.y); vllm.gone1"
    )
    assert finding.found.endswith("; and 2 more")
    assert finding.change.startswith("install vllm 0.32.0 or 0.33.0")
    assert finding.change.endswith(f"python -m vllm_mega.engine.upstream {tmp_path}")
