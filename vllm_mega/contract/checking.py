"""The check at start: whoever relies on a part of another package asks for it before using it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from vllm_mega.contract.installed import Installed
from vllm_mega.contract.judging import Finding, findings
from vllm_mega.contract.tested import TESTED
from vllm_mega.contract.use import Use
from vllm_mega.errors import UpstreamError


def require(uses: Iterable[Use]) -> None:
    """Go on only with packages that are what `uses` expect of them.

    Costs milliseconds, beside the import of what `uses` are about: ask where that is imported anyway.

    Raises:
        UpstreamError: a package is not; names what was found, what was expected, and the tested version.
    """
    if found := findings(uses, Installed()):
        raise UpstreamError(report(found))


def report(found: Sequence[Finding]) -> str:
    """What `found` means, for people: a line of what to do, and a line each."""
    package = found[0].use.owner.partition(":")[0].partition(".")[0]
    tested = TESTED[package]
    version = getattr(importlib.import_module(package), "__version__", "of an unknown version")
    head = (
        f"{package} {version} is not what this vllm_mega was written for: install {package} {tested}, "
        "with which it was tested, or a vllm_mega for this one"
    )
    return "\n  ".join([head, *map(str, found)])
