"""One tree of exceptions.

::

    MegaError
    |-- ConfigError        a setting that cannot be right (also a ValueError)
    |-- ForbiddenError     a principal asks for more than its key is for: HTTP 403
    |-- LimitError         more than a namespace may have, or changes that come too fast: HTTP 429
    |-- RequestError       a client's request that cannot be right: HTTP 400 (also a ValueError)
    |   `-- MixtureError   a mixture that breaks an invariant, or is wider than the slots
    |-- KeyReusedError     a key of one request was given to another one: HTTP 422
    |-- BusyError          a server has as much to do as it takes on: HTTP 503, ask again
    |-- ServerError        another process's server that cannot be reached, or answers what nobody understands
    |-- ModelError         a model that cannot be found or prepared
    |-- BankError          a bank that cannot be read or written
    |   |-- BankNotFoundError
    |   |-- BankFormatError      unreadable, or of a version we do not know
    |   |-- BankMismatchError    made for another base model or another embedder
    |   |-- DraftError           a memory that cannot be kept as it was given: HTTP 400
    |   |-- LeaseLostError       the job is another trainer's by now, or nobody's
    |   |-- BankChangedError     it changes faster than it can be read: HTTP 503, ask again
    |   |-- MemoryNotFoundError  no such memory in this namespace (also a LookupError)
    |   |-- MemoryChangedError   somebody has changed it meanwhile: HTTP 412
    |   `-- MemoryNotReadyError  it has no adapter (yet), and one is needed
    |-- ToolError          a tool of an agent that could not do what it was called for
    |-- BatchError         a file of requests that cannot be answered to its end
    |-- DocumentError      a document that cannot be read, or says nothing
    |-- AdapterError       an adapter that must not be used (file, expected, found, what to change)
    |-- KernelError        the kernel cannot be compiled or loaded on this machine
    |-- TrainingError      a training that cannot go on
    `-- UpstreamError      vLLM or transformers is not what we rely on
"""

from __future__ import annotations

from pathlib import Path


class MegaError(Exception):
    """Base of every error that vllm_mega raises on purpose."""


class ConfigError(MegaError, ValueError):
    """A setting that cannot be right."""


class ForbiddenError(MegaError):
    """A principal asks for more than its key is for; servers answer 403."""


class LimitError(MegaError):
    """A limit of the namespace; `retry_after` is in seconds, None where waiting does not help."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestError(MegaError, ValueError):
    """A request that cannot be right; servers answer 400.

    `param` names the offending field, for the OpenAI error body.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class MixtureError(RequestError):
    """A mixture that breaks an invariant or cannot be served."""


class KeyReusedError(MegaError):
    """An idempotency key was given with another request than the first one."""


class BusyError(MegaError):
    """A server has as much to do as it takes on; the same request may succeed a moment later."""


class ServerError(MegaError):
    """A server that cannot be reached, or whose answer is none of a server with memory."""


class ModelError(MegaError):
    """A model that cannot be found or prepared."""


class BankError(MegaError):
    """A bank that cannot be read or written."""


class BankNotFoundError(BankError):
    """There is no bank at this path."""


class BankFormatError(BankError):
    """A bank file is unreadable, or of a version we do not know."""


class BankMismatchError(BankError):
    """The bank was made for another base model or another embedder."""


class DraftError(BankError):
    """A memory that cannot be kept as it was given; nothing has changed."""


class LeaseLostError(BankError):
    """A job's lease has ended: another trainer has it, or its memory was changed or forgotten."""


class BankChangedError(BankError):
    """The bank changes faster than it can be read; the same request may succeed a moment later."""


class MemoryNotFoundError(BankError, LookupError):
    """The namespace has no memory with this id."""


class MemoryChangedError(BankError):
    """Somebody has changed the memory since it was read: read it again, and decide anew."""


class MemoryNotReadyError(BankError):
    """The memory has no adapter: it waits for one, is being trained, or its training was given up."""


class ToolError(MegaError):
    """A tool that could not do what an agent called it for; the message is for the agent."""


class BatchError(MegaError):
    """A file of requests that cannot be answered to its end; what is answered stays, and a run can go on."""


class DocumentError(MegaError):
    """A document that cannot be read, or says nothing; the message begins with its path."""


class AdapterError(MegaError):
    """An adapter that must not be used.

    Always says which file, what was expected, what was found and what to change.
    """

    def __init__(self, path: Path | str, *, expected: str, found: str, change: str = "") -> None:
        self.path = Path(path)
        self.expected = expected
        self.found = found
        self.change = change
        message = f"{path}: expected {expected}, found {found}"
        super().__init__(f"{message}. {change}" if change else message)


class KernelError(MegaError):
    """The kernel cannot be compiled or loaded on this machine."""


class TrainingError(MegaError):
    """A training that cannot go on."""


class UpstreamError(MegaError):
    """VLLM or transformers is not what vllm_mega was written for; names what was found and expected."""
