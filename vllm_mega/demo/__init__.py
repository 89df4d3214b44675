"""`vllm-mega demo`: train invented memories, serve them, ask, check; uses the other parts as anyone would."""
