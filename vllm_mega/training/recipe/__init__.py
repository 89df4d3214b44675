"""What a memory is trained on, and all that decides its adapter: from texts to token ids."""
