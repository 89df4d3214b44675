"""The versions that the contract was written for and tested with."""

from __future__ import annotations

TESTED = {"vllm": ("0.32.0", "0.33.0"), "transformers": ("5.19.0",)}
"""By package, oldest first."""


def release(package: str, version: str) -> str:
    """The release of `package` as which `version` is taken: its own, or the newest that was tested.

    `0.33` for 0.33.1. A version of no tested release is thus held to be as the newest; the contract says
    whether it is.
    """
    tested = [_release(one) for one in TESTED[package]]
    return _release(version) if _release(version) in tested else tested[-1]


def wanted(package: str) -> str:
    """The tested versions, for people."""
    return " or ".join(TESTED[package])


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])
