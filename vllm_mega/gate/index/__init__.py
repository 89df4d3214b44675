"""The keys of a bank in memory, searched exactly: see `index.Index`."""
