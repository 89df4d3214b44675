"""Memories over HTTP, under `/v1/mega/`: routes that only translate to `vllm_mega.memories`.

`operations` is the table of all routes. What is asked (`asked`) and told (`told`) are structs; `answering`
turns requests into one and the other, in the threads of a pool, so that no request holds the event loop.
"""
