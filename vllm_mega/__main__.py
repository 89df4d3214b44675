"""`python -m vllm_mega` is `vllm-mega`."""

import sys

from vllm_mega.cli import main

sys.exit(main())
