"""One frozen model and many adapters on it: packed rows, kernels, loss, and what the model recites."""
