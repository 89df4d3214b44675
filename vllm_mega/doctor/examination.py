"""All checks in order: those first without which the others say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vllm_mega.doctor.bank import Asked, bank
from vllm_mega.doctor.finding import Check, Finding, examined
from vllm_mega.doctor.machine import machine
from vllm_mega.doctor.models import model
from vllm_mega.doctor.packages import packages
from vllm_mega.doctor.processor import processor
from vllm_mega.doctor.starting import starting
from vllm_mega.doctor.upstream import upstream
from vllm_mega.models import DEFAULT_EMBEDDER, DEFAULT_MODEL


def examination(asked: Asked | None, serve: Check) -> Iterator[Finding]:
    """What is found, each as soon as it is.

    Args:
        asked: the bank to look at; None: none, and then the default models are looked for.
        serve: what would come of serving it.
    """
    yield from examined("packages", packages)
    yield from examined("vllm inside", upstream)
    yield from examined("machine", partial(machine, asked.bank if asked else None))
    yield from examined("processor", processor)
    yield from examined("vllm starts", starting)
    if asked is not None:
        yield from examined("bank", partial(bank, asked, serve))
        return
    for role, name in (("base model", DEFAULT_MODEL), ("embedder", DEFAULT_EMBEDDER)):
        yield from examined(role, partial(_model, role, name))


def _model(role: str, name: str) -> Iterator[Finding]:
    yield model(role, name)
