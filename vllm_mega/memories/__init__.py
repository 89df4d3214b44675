"""What one can do with memories: one function each. Commands, servers and consoles only call these.

Every function takes an open catalog (`open_catalog`, `create_catalog`, `open_or_create`), names memories by
(namespace, id), and is one change, all of it or nothing. `who` changes something, for the history.
"""

from vllm_mega.bank.catalog.changes import link, pin, restore, retire, tag, unlink
from vllm_mega.bank.catalog.expiring import expire
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import request_training
from vllm_mega.bank.catalog.known import find_job, list_jobs, page_jobs
from vllm_mega.bank.catalog.reading import list_memories
from vllm_mega.memories.exporting import export_bank
from vllm_mega.memories.importing import import_bank
from vllm_mega.memories.reading import get_entry, history
from vllm_mega.memories.remembering import remember, remember_adapter
from vllm_mega.memories.searching import search
from vllm_mega.memories.updating import update

__all__ = [
    "expire",
    "export_bank",
    "find_job",
    "forget",
    "get_entry",
    "history",
    "import_bank",
    "link",
    "list_jobs",
    "list_memories",
    "page_jobs",
    "pin",
    "remember",
    "remember_adapter",
    "request_training",
    "restore",
    "retire",
    "search",
    "tag",
    "unlink",
    "update",
]
