"""What torch says that a processor can."""

WITH_BFLOAT16 = {"architecture": "x86_64", "avx512_bf16": True}
WITHOUT_BFLOAT16 = {"architecture": "x86_64", "avx512_bf16": False}
ARM = {"architecture": "aarch64"}
