"""Options that commands share; for `serve` and `query` also what follows from them for vLLM."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mega.commands._settings import add_setting
from vllm_mega.config import GateSettings, MegaSettings, described

SALIENCE = ("salience_margin", "salience_half_life_days")
"""Settings of what use does."""


def add_bank_options(
    parser: argparse.ArgumentParser, folder: str = "the bank's folder", *, required: bool = True
) -> None:
    """--bank and --catalog: which bank; of every command that has one."""
    parser.add_argument("--bank", required=required, type=Path, help=folder)
    parser.add_argument(
        "--catalog",
        metavar="URL",
        help=described(MegaSettings)["catalog"],
    )


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """--bank and what a request may say of memory, as defaults for all of them."""
    add_bank_options(parser)
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    add_setting(parser, MegaSettings, "embedder", told="the bank's")
    for name in ("namespace", "mode", "window"):
        add_setting(parser, MegaSettings, name)
    add_setting(parser, MegaSettings, "dialogue", metavar="N")
    parser.add_argument(
        "--pin",
        action="append",
        metavar="ID",
        dest="pinned",
        help=f"{described(MegaSettings)['pinned']}; may be given several times",
    )
    for name in GateSettings.__struct_fields__:
        add_setting(parser, GateSettings, name)
    add_salience_options(parser)


def add_salience_options(parser: argparse.ArgumentParser) -> None:
    """Whether and how use of memories counts."""
    for name in SALIENCE:
        add_setting(parser, MegaSettings, name)


def salience_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of use, by the names of `MegaSettings`."""
    given = {name: getattr(args, name) for name in SALIENCE}
    return {name: value for name, value in given.items() if value is not None}


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """--trust-remote-code, as vLLM calls it, for commands that are not vLLM's."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that the base model or the embedder brings; never asked for otherwise",
    )


def memory_settings(args: argparse.Namespace) -> MegaSettings:
    """The settings that the arguments ask for.

    Raises:
        ConfigError: a value that cannot be right.
    """
    gate_fields = GateSettings.__struct_fields__
    gate = {name: getattr(args, name) for name in gate_fields}
    rest = {
        name: getattr(args, name)
        for name in ("catalog", "namespace", "mode", "window", "dialogue", "embedder")
    }
    return MegaSettings(
        bank=str(args.bank.absolute()),
        gate=GateSettings(**{name: value for name, value in gate.items() if value is not None}),
        pinned=tuple(args.pinned or ()),
        max_requests=getattr(args, "max_requests", None),  # this and the next three are of `serve` alone
        forget_running=getattr(args, "forget_running", None) or "finish",
        keys=getattr(args, "keys", None),
        audit=getattr(args, "audit", None),
        **{name: value for name, value in rest.items() if value is not None},
        **salience_settings(args),
    )


@dataclass(frozen=True)
class Launch:
    """How vLLM is to be started."""

    model: str
    """Path of the checkpoint, or what vLLM resolves itself."""
    name: str
    """Under which it is served."""
    memories: int
    settings: MegaSettings
    options: dict[str, Any]
    """For the engine, those left out that the user has given."""
    environment: dict[str, str]
    given: dict[str, Any]
    """What the user has given for vLLM."""


def plan_launch(args: argparse.Namespace) -> Launch:
    """Check the bank against the model, and say how to start vLLM for it.

    Raises:
        BankError, ModelError, ConfigError: bank, model and options do not go together.
    """
    from vllm_mega.bank.library import Library, check_match
    from vllm_mega.http import launch
    from vllm_mega.http.given import given_options
    from vllm_mega.models import fingerprint, resolve_recorded

    settings = memory_settings(args)
    os.environ["VLLM_PLUGINS"] = launch.plugins(os.environ)  # vLLM's parser loads plugins
    given = given_options(args.rest)
    with Library(settings.bank, settings.catalog) as library:
        recorded = library.settings.base.name
        named = args.model or given.get("model")
        model, asked = resolve_recorded(named, recorded), named or recorded
        check_match(library.root, library.settings, fingerprint(model), None)
        options = launch.engine_options(library, settings, model, given)
        memories = library.adapters().memories
    names = given.get("served_model_name")
    name = names[0] if names else launch.served_name(asked)
    if "served_model_name" not in given:
        options["served_model_name"] = name
    environment = launch.this_environment(given)
    return Launch(str(model), name, memories, settings, options, environment, given)
