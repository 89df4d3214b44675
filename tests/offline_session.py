"""What test_offline.py asks a MegaLLM, in a process of its own: python -m tests.offline_session BANK OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.http.live_bank import ASKED, CLOCK, TORTOISE, UNRELATED, LiveBank


def main(bank: Path, out: Path) -> None:
    from vllm import SamplingParams

    from vllm_mega import MegaLLM
    from vllm_mega.errors import MegaError
    from vllm_mega.gate.embedder import load_embedder

    settings = {"gate": {"top_k": 2}}
    # float32: answers are compared that were computed in batches of other shapes.
    llm = MegaLLM(
        bank, settings=settings, max_loras=3, max_model_len=256, enforce_eager=True, dtype="float32"
    )
    short = SamplingParams(temperature=0, max_tokens=8)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED["comet"]}]
    results: dict[str, Any] = {}

    def chat(name: str, conversations: Any, **more: Any) -> None:
        answers = llm.chat(conversations, short, **more)
        results[name] = [
            [answer.text, answer.mega, len(answer.output.prompt_token_ids)] for answer in answers
        ]

    def refused(name: str, conversations: Any, **more: Any) -> None:
        try:
            llm.chat(conversations, short, **more)
        except MegaError as error:
            results[name] = [type(error).__name__, str(error), getattr(error, "__notes__", [])]

    questions = [ASKED["lighthouse"], UNRELATED, talk]
    chat("adapter", questions)
    chat("off", questions, mode="off")
    chat("modes", [ASKED["bakery"]] * 3, mega=[{"mode": "recall"}, {"mode": "irag"}, None])
    both = [{"id": "bakery", "weight": 0.5}, {"id": "comet", "weight": 0.5}]
    mixtures = [both, [{"id": "bakery"}], [{"id": "comet"}]]
    chat("two", [ASKED["bakery"]] * 3, mega=[{"mode": "irag", "memories": m} for m in mixtures])
    chat("unrelated", [UNRELATED] * 3, mega=[{"mode": "recall"}, {"mode": "irag"}, {"enabled": False}])
    chat("explicit", [UNRELATED], mega={"memories": [{"id": "comet", "weight": 0.5}]})
    chat("none", [])
    chat("tags", [ASKED["bakery"]] * 3, mega=[{"tags": ["food"]}, {"tags": ["nothing"]}, None])
    chat("starts", [ASKED["lighthouse"]] * 3, mega=[None, {"start": 0}, {"start": {"token": 5}}])
    refused("start", questions, mega=[None, None, {"start": 1000}])
    refused("character", questions, mega={"start": {"character": 3}})
    refused("unknown", questions, mega=[None, {"memories": [{"id": "elk"}]}, None])
    refused("field", questions, mega=[None, None, {"mood": 1}])
    refused("tags twice", questions, mega=[None, {"tags": ["food", "food"]}, None])
    refused("length", questions, mega=[None])
    wide = [{"id": name} for name in ("lighthouse", "bakery", "comet", "tortoise")]
    refused("wide", questions, mega={"memories": wide})
    refused(
        "no question",
        [[{"role": "assistant", "content": "hm"}]],
        mega={"memories": [{"id": "comet"}], "mode": "irag"},
    )

    live = LiveBank(bank, load_embedder())
    live.add([CLOCK])
    chat("added", [ASKED["clock"]])
    live.forget(CLOCK)
    chat("forgotten", [ASKED["clock"]])
    file = live.add([TORTOISE])[0] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused("broken", [ASKED["tortoise"]])
    chat("after", [ASKED["lighthouse"]])
    llm.close()
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
