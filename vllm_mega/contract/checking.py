"""The check at start: whoever relies on a part of another package asks for it before using it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from vllm_mega.contract.installed import Installed
from vllm_mega.contract.judging import Finding, findings
from vllm_mega.contract.tested import wanted
from vllm_mega.contract.use import Use, holding
from vllm_mega.errors import UpstreamError


def require(uses: Iterable[Use]) -> None:
    """Go on only with packages that are what `uses` expect of them.

    Costs milliseconds, beside the import of what `uses` are about: ask where that is imported anyway.

    Raises:
        UpstreamError: a package is not; names what was found, what was expected, and the tested version.
    """
    if found := findings(holding(uses, version), Installed()):
        raise UpstreamError(report(found))


def report(found: Sequence[Finding]) -> str:
    """What `found` means, for people: a line of what to do, and a line each."""
    package = found[0].use.package
    head = (
        f"{package} {version(package)} is not what this vllm_mega was written for: install {package} "
        f"{wanted(package)}, with which it was tested, or a vllm_mega for this one"
    )
    return "\n  ".join([head, *map(str, found)])


def version(package: str) -> str:
    """What an installed package calls itself."""
    return str(getattr(importlib.import_module(package), "__version__", "of an unknown version"))
