"""Training: a memory's text becomes a LoRA adapter.

`session.train` trains the memories that a bank does not have yet. `texts` says what a memory is trained
on, `encoding` puts that in the model's chat format, `lora` holds the adapters on the frozen model,
`trainer` is the loop of one memory, `export` writes PEFT's format.
"""
