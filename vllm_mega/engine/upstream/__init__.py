"""All that we rely on inside vLLM: patches, and a contract that is checked at start.

A patch says what it replaces, why, and when it can go. It is applied once however often it is asked for, and
refuses loudly when the target is not what it was written for. The contract (the modules `of_...`) names what
else we override, call or read, and is checked where each part begins.
`python -m vllm_mega.engine.upstream` prints both, or checks the source tree of another vLLM.
"""
