"""Handlers of the default model and of one with another template and tokenizer."""

from __future__ import annotations

import pytest

from tests.gemma import resolve_gemma
from tests.hook.starts import CONTEXT, Hook
from tests.http.rendering import Handlers, handlers


@pytest.fixture(scope="package")
def served() -> Handlers:
    return handlers(Hook(), CONTEXT)


@pytest.fixture(scope="package")
def gemma() -> Handlers:
    return handlers(Hook(), CONTEXT, resolve_gemma())
