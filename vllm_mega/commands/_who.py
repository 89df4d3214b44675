"""Who uses the command line, for the histories of memories."""

from __future__ import annotations

import getpass
import os


def who() -> str:
    """The user's name; where there is none, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
