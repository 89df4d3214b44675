"""Chat templates that are given in place of a model's own: by name, as a file, and what to call them."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.errors import ConfigError
from vllm_mega.text_file import read_text

PLAIN = "plain"
"""The name of the template of this package: "User: ...", "Assistant: ...", for models that have none."""
_PLAIN_FILE = Path(__file__).with_name("plain.jinja")


def read_template(given: str) -> str:
    """The Jinja template that the option --chat-template names: `plain`, or a file.

    Raises:
        ConfigError: there is no such file, or nothing in it.
    """
    path = _PLAIN_FILE if given == PLAIN else Path(given).expanduser()
    try:
        template = read_text(path)
    except ConfigError as error:
        raise ConfigError(f"--chat-template takes {PLAIN} or a Jinja file, got {given}: {error}") from error
    if not template.strip():
        raise ConfigError(f"--chat-template {given}: expected a Jinja template, found an empty file")
    return template


def template_name(template: str) -> str:
    """What to call `template` in a message; empty: that of the model."""
    if not template:
        return "the model's own"
    if template == _PLAIN_FILE.read_text(encoding="utf-8"):
        return PLAIN
    return f"the one that begins {' '.join(template.split())[:40]!r}"
