"""A program of its own, see `bank.patterns`: which of a stranger's patterns is the first to match each name.

Reads {"patterns": [...], "names": [...]} from standard input; writes {"places": [index or null, ...]} or
{"error": "..."}. Imports nothing of the package, so that it starts at once.
"""

from __future__ import annotations

import json
import re
import resource
import sys

SECONDS = 10
_BYTES = 1 << 30


def main() -> None:
    """Match within the limits; what goes beyond them ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    asked = json.load(sys.stdin)
    try:
        # As PEFT has it (peft.utils.other.get_pattern_key).
        patterns = [re.compile(rf"(.*\.)?({pattern})$") for pattern in asked["patterns"]]
        places = [next((i for i, p in enumerate(patterns) if p.match(name)), None) for name in asked["names"]]
    except (re.error, RecursionError, OverflowError) as error:
        json.dump({"error": f"no regular expression ({error})"}, sys.stdout)
    else:
        json.dump({"places": places}, sys.stdout)


if __name__ == "__main__":
    main()
