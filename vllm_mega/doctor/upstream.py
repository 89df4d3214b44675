"""Whether vLLM and transformers are inside what we rely on. Their sources are read; neither is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_mega.contract.judging import View, findings
from vllm_mega.contract.tested import wanted
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use, holding, pins
from vllm_mega.doctor.finding import Finding
from vllm_mega.engine.upstream.whole import CONTRACT

SHOWN = 3
"""Differences that are named; the command of `CHANGE` names all."""


def upstream() -> Iterator[Finding]:
    """A finding for each package of the contract that is there; that one is missing is another check's."""
    for package, uses in CONTRACT.items():
        if folder := _folder(package):
            tree = Tree(folder)
            yield judged(package, list(holding(uses, tree.version)), tree, folder)


def judged(package: str, uses: Sequence[Use], view: View, folder: Path) -> Finding:
    """Whether `package`, which lies in `folder`, is what `uses` expect."""
    name, found = f"{package} inside", findings(uses, view)
    if not found:
        names = sum(max(1, len(list(pins(use)))) for use in uses)
        return Finding(name, "ok", f"{names} names are what we rely on")
    first = "; ".join(map(str, found[:SHOWN]))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    change = (
        f"install {package} {wanted(package)}, or a vllm-mega for this one; "
        f"all differences: python -m vllm_mega.engine.upstream {folder}"
    )
    return Finding(name, "problem", first + more, change)


def _folder(package: str) -> Path | None:
    """Where the package lies, as the folder of its folder."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent.parent if spec and spec.origin else None
