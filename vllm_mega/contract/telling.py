"""The contract and what was found, as text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vllm_mega.contract.use import Pin, Use, pins


def lines(uses: Iterable[Use]) -> Iterator[str]:
    """For a terminal: an owner each, why and until when, and its names by kind."""
    for use in uses:
        yield f"{use.owner}{_release(use)}  ({use.by})"
        yield f"    {use.why} Until {use.until}."
        yield from (f"    {kind}: {', '.join(names)}" for kind, names in _by_kind(use).items())


def table(uses: Iterable[Use]) -> Iterator[str]:
    """For Markdown: a row each."""
    yield "| What | Names | Used by | Why | Until |"
    yield "| --- | --- | --- | --- | --- |"
    for use in uses:
        names = "<br>".join(f"{kind}: {_code(names)}" for kind, names in _by_kind(use).items())
        what = f"`{use.owner}`{_release(use)}"
        yield f"| {what} | {names or 'itself'} | {use.by} | {use.why} | {use.until} |"


def _release(use: Use) -> str:
    return f" of {use.only}" if use.only else ""


def _by_kind(use: Use) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pin in pins(use):
        found.setdefault(pin.kind, []).append(_text(pin))
    return found


def _text(pin: Pin) -> str:
    if pin.kind in ("patched", "overridden", "called"):
        return f"{pin.name}({', '.join(pin.expected.split())})"
    return pin.name or "its class"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.strip()}`".replace("|", "\\|").replace("\n", " ") for name in names)
