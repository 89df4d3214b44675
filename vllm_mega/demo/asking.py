"""Asking the server with the official `openai` client, as any user of it would."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vllm_mega.bank.layout import NewMemory
from vllm_mega.demo.checks import Asked, Recalled, Reply, Unrelated
from vllm_mega.demo.material import Material, Question

if TYPE_CHECKING:
    from openai import OpenAI

AT_ONCE = 8
"""Requests in flight; vLLM runs them in one batch, each with its own mixture."""
ANSWER_TOKENS = 96
RECALL_TOKENS = 160


class Asker:
    """The questions of the demo, to the model with memory and to the base model.

    Args:
        url: root of the server.
    """

    def __init__(self, url: str) -> None:
        from openai import OpenAI

        self._client: OpenAI = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300.0, max_retries=0)
        names = [model.id for model in self._client.models.list()]
        self.mega = next(name for name in names if name.endswith("-mega"))
        self.base = self.mega.removesuffix("-mega")

    def ask(self, model: str, prompt: str, max_tokens: int = ANSWER_TOKENS, **mega: Any) -> Reply:
        """One prompt, answered greedily; `mega` is the field that says what memory should do."""
        body: dict[str, Any] = {"return_token_ids": True}
        # A salt of its own keeps a prompt from finding its own beginning in the prefix cache. A cached
        # beginning is added up in another order, so bf16 could differ in the last bit, and then a token.
        body["cache_salt"] = uuid4().hex
        if mega:
            body["mega"] = mega
        answer = self._client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            temperature=0.0,
            max_completion_tokens=max_tokens,
            extra_body=body,
        )
        choice = answer.choices[0]
        used = (answer.model_extra or {}).get("mega", {}).get("memories", [])
        return Reply(
            text=(choice.message.content or "").strip(),
            token_ids=tuple((choice.model_extra or {})["token_ids"]),
            memories=tuple((memory["title"] or memory["id"], memory["weight"]) for memory in used),
        )

    def questions(self, questions: Sequence[Question]) -> list[Asked]:
        """Every question to the base model, direct, and with irag; many at once."""

        def ways(question: Question) -> Asked:
            base = self.ask(self.base, question.question)
            direct = self.ask(self.mega, question.question, mode="adapter")
            irag = self.ask(self.mega, question.question, mode="irag")
            return Asked(question.question, question.answer, base, direct, irag)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ways, questions))

    def recalls(self, material: Material) -> list[Recalled]:
        """Every memory reconstructed from a question about it; many at once."""

        def recall(memory: NewMemory) -> Recalled:
            reply = self.ask(self.mega, material.first_question(memory), RECALL_TOKENS, mode="recall")
            return Recalled(memory.title or memory.id, memory.text, reply)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(recall, material.memories))

    def unrelated(self, prompts: Sequence[str]) -> list[Unrelated]:
        """Prompts that no memory is about, to both models, one at a time: a batch would round otherwise."""
        return [
            Unrelated(prompt, self.ask(self.mega, prompt), self.ask(self.base, prompt)) for prompt in prompts
        ]
