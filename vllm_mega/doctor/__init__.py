"""`vllm-mega doctor`: what of this machine, its packages and a bank would keep a server from serving.

`finding` says what a check finds. `packages`, `upstream`, `machine`, `models`, `bank` and `starting` look
at one thing each, `generation` boots a server, `examination` has them in order. Nothing is changed, and
nothing is downloaded; only the CPU kernel is compiled, as the first server would do it.
"""
