"""The keys that a server goes by: vLLM's own, those of a file, or none. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_mega.access.keyfile import VARIABLE, Keys, keys_from
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError


def server_keys(settings: MegaSettings, api_keys: Sequence[str], environ: Mapping[str, str]) -> Keys | None:
    """The keys with roles that a server asks for; None: it asks for none of those.

    Args:
        settings: name the file.
        api_keys: of vLLM's --api-key, or VLLM_API_KEY.
        environ: may hold keys in place of a file.

    Raises:
        ConfigError: keys of both kinds, an audit log and nobody who is known, or a file that cannot be used.
    """
    keys = keys_from(None if settings.keys is None else Path(settings.keys), environ)
    if keys is None and settings.audit is not None:
        raise ConfigError("an audit log tells who was refused, and here nobody is known: give --keys, too")
    if keys is not None and api_keys:
        raise ConfigError(
            f"--api-key (VLLM_API_KEY) and --keys ({VARIABLE}) do not go together: vLLM would refuse every "
            "key but its own. Give --keys alone, with a key of the role admin for whoever has --api-key now"
        )
    return keys
