"""Training: a memory's text becomes a LoRA adapter. Three rooms, each of which knows those before it.

`recipe` says what a memory is trained on, and all that decides its adapter; `compute` holds many adapters on
one frozen model, and moves them; `run` leases jobs, trains them side by side, and publishes.
"""
