"""The app that vLLM builds for `vllm serve`, our plugin in it, without an engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

SETTINGS = json.dumps({"mega": {"bank": "bank"}})


def build(monkeypatch: pytest.MonkeyPatch, *argv: str, settings: str | None = SETTINGS) -> Any:
    """The app for these words of the command line."""
    from vllm import envs
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm_mega.engine.upstream.releases import server_options

    monkeypatch.setenv("VLLM_PLUGINS", "vllm_mega")
    envs.disable_envs_cache()  # an engine of another test has enabled it
    monkeypatch.setattr(logging.root, "level", logging.root.level)  # SageMaker's package sets it
    words = ["model", *argv, *(["--additional-config", settings] if settings else [])]
    args = server_options().make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    return build_app(args, ("generate",), None)


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of every route; the parameters of a path are names, and a mount is asked for itself."""
    for route in app.routes:
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield method, route.path.replace("{", "").replace("}", "")
