"""Where our settings travel in a vLLM configuration."""

from __future__ import annotations

from typing import Any

from vllm_mega.config import MegaSettings, settings_from

SETTINGS_KEY = "mega"
"""`VllmConfig.additional_config["mega"]`."""


def settings_of(config: Any) -> MegaSettings | None:
    """Our settings in a vLLM configuration, or in the arguments that it is made of; None: stock vLLM.

    Raises:
        ConfigError: they are there and wrong.
    """
    extra = config.additional_config
    value = extra.get(SETTINGS_KEY) if isinstance(extra, dict) else None
    return None if value is None else settings_from(value, MegaSettings)
