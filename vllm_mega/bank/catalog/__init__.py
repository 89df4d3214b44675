"""The catalog of a bank: its memories, versions, links, jobs and events, in SQLite or PostgreSQL.

Adapters lie beside it, in folders named by their digest (`store`). `docs/catalog.md` tells the whole story.
"""
