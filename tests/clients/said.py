"""How a program of this folder tells what it has heard; see cases.py. Runs in any environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Said = tuple[str, Any]
"""The text, and the field `mega` as this client shows it; None: it does not."""


def main(uses: Mapping[str, Callable[[], Said]]) -> None:
    """Run the use that is named on the command line."""
    text, mega = uses[sys.argv[1]]()
    memories = None if mega is None else [memory["id"] for memory in mega["memories"]]
    sys.stdout.write(json.dumps({"text": text, "memories": memories}) + "\n")
