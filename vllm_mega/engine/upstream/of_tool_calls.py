"""What we rely on in vLLM where models call tools. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use

TOOL_CALLS = (
    Use(
        "vllm.entrypoints.openai.chat_completion.protocol",
        by="http.tool_rounds",
        why="Requests get tools of ours.",
        reads="ChatCompletionNamedToolChoiceParam ChatCompletionToolsParam",
    ),
    Use(
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionToolsParam",
        by="http.tool_rounds",
        why="Which tools the client has.",
        reads="function",
    ),
    Use(
        "vllm.entrypoints.openai.chat_completion.protocol:ChatMessage",
        by="http.chat http.tool_rounds",
        why="What a model says and calls.",
        reads="content tool_calls",
    ),
    Use(
        "vllm.entrypoints.generate.base.protocol:ToolCall",
        by="http.tool_rounds",
        why="What a model calls.",
        reads="function id",
    ),
    Use(
        "vllm.entrypoints.generate.base.protocol:FunctionCall",
        by="http.tool_rounds",
        why="What a model calls.",
        reads="arguments name",
    ),
)
"""What `http/tool_rounds.py` gives requests, and reads of answers."""
