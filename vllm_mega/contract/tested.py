"""The versions that the contract was written for and tested with."""

from __future__ import annotations

TESTED = {"vllm": "0.32.0", "transformers": "5.19.0"}
