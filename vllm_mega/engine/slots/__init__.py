"""The places of adapters in an engine, where the kernels find them: one protocol, for CPU and for CUDA."""
