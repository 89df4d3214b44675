"""A whole server, started, asked and stopped: the last thing that can be wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vllm_mega.demo.asking import Asker
from vllm_mega.demo.server import free_port, serving
from vllm_mega.doctor.finding import Finding
from vllm_mega.errors import MegaError

SECONDS = 600.0
"""Until the server must answer; a large model loads for minutes."""
QUESTION = "What is the capital of France?"
TOKENS = 8


def generation(words: Sequence[str]) -> Iterator[Finding]:
    """What a server says that `vllm-mega serve` with these words starts.

    Args:
        words: as `serve` has them, --bank among them; none: an empty bank of the default models.

    Raises:
        MegaError: it does not start; the message has the end of its log.
    """
    with TemporaryDirectory(prefix="mega-doctor-") as folder:
        words = words or _empty_bank(Path(folder))
        begun, port = time.monotonic(), free_port()
        command = _ours(["serve", *words, "--host", "127.0.0.1", "--port", str(port)])
        with serving(command, port, Path(folder, "server.log"), SECONDS, lambda _: None) as url:
            yield asked(url, time.monotonic() - begun)


def asked(url: str, seconds: float) -> Finding:
    """What the server at `url`, which took so many seconds to start, says without memory and with it."""
    import openai

    begun = time.monotonic()
    try:
        asker = Asker(url)
        said = [asker.ask(model, QUESTION, TOKENS) for model in (asker.base, asker.mega)]
    except openai.AuthenticationError:
        found = "the server started, and asks for a key"
        return Finding("generation", "warning", found, "try --generate without --keys and --api-key")
    except openai.OpenAIError as error:
        return Finding("generation", "problem", f"the server started, and refused: {error}")
    if not all(reply.token_ids for reply in said):
        change = "look at the model: vllm-mega model NAME names its folder"
        return Finding("generation", "problem", "the server started, and said nothing", change)
    found = f"{said[-1].text!r}, {time.monotonic() - begun:.1f} s; started in {seconds:.0f} s"
    return Finding("generation", "ok", found)


def _empty_bank(folder: Path) -> list[str]:
    bank = str(folder / "bank")
    command = _ours(["bank", "create", "--bank", bank])
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise MegaError(f"an empty bank could not be made: {made.stderr.strip()}")
    return ["--bank", bank, "--max-model-len", "512"]


def _ours(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "vllm_mega", *command]
