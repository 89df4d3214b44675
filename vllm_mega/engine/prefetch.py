"""Prefetch: adapters are read while earlier steps still run.

The engine core hears of a request before it may schedule it, in the thread that takes requests in. It
announces the adapters there; every worker listens in a thread of its own, reads and packs, and has them
ready when the request's first step comes. A lost announcement costs time and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import msgspec
import zmq

from vllm_mega.engine.slots.packed import PackedAdapter
from vllm_mega.mixture import Component

logger = logging.getLogger(__name__)


def channel(vllm_config: Any) -> str:
    """Where an engine core announces and its workers listen: one place per engine on this machine."""
    name = f"vllm-mega-{vllm_config.instance_id}-{vllm_config.parallel_config.data_parallel_rank}"
    return f"ipc://{Path(gettempdir()) / name}"


class Announcer:
    """The engine core's end. Any thread may announce."""

    def __init__(self, address: str) -> None:
        self._file = Path(address.removeprefix("ipc://"))
        self._lock = threading.Lock()
        self._socket: Any = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)

    def announce(self, components: Iterable[Component]) -> None:
        """Say that a request will need these adapters. Never blocks."""
        message = msgspec.json.encode(list(components), enc_hook=str)
        with self._lock:
            self._socket.send(message)

    def close(self) -> None:
        """Stop announcing."""
        self._socket.close()
        self._file.unlink(missing_ok=True)  # a thread of ZeroMQ's would, if the process lived long enough


class Loader:
    """Reads adapters ahead, one after the other, in a thread; at most `ahead` of them wait to be taken."""

    def __init__(self, read: Callable[[Component], PackedAdapter], ahead: int) -> None:
        self._read, self._ahead = read, ahead
        self._pool = ThreadPoolExecutor(1, "mega-loader")
        self._lock = threading.Lock()
        self._coming: OrderedDict[tuple[str, str], Future[PackedAdapter]] = OrderedDict()

    def prefetch(self, component: Component) -> None:
        """Begin to read the adapter, unless it is coming already."""
        with self._lock:
            key = component.adapter, component.path
            if key in self._coming:
                return
            while len(self._coming) >= self._ahead:  # nobody took it: its request is gone, or far behind
                self._coming.popitem(last=False)[1].cancel()
            self._coming[key] = self._pool.submit(self._read, component)

    def take(self, component: Component) -> tuple[PackedAdapter, bool]:
        """The adapter, and whether it had been announced in time. Waits for it, or reads it now.

        Raises:
            AdapterError: it must not be used.
        """
        with self._lock:
            future = self._coming.pop((component.adapter, component.path), None)
        # Not begun: this one is needed now, the queue may be long. Failed: that was then, look again.
        if future is None or future.cancel() or future.exception() is not None:
            return self._read(component), False
        return future.result(), True

    def coming(self) -> set[str]:
        """Digests of the adapters that wait to be taken."""
        with self._lock:
            return {adapter for adapter, _ in self._coming}

    def drop(self, adapter: str) -> int:
        """Let go of what waits of the adapter of this digest, its bytes overwritten; how many copies."""
        with self._lock:
            keys = [key for key in self._coming if key[0] == adapter]
            futures = [self._coming.pop(key) for key in keys]
        for future in futures:
            if not future.cancel():
                future.add_done_callback(_erase)
        return len(futures)

    def listen(self, address: str, wanted: Callable[[Component], bool]) -> None:
        """Prefetch what is announced and wanted, from now to the end of the process."""
        socket: Any = zmq.Context.instance().socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.subscribe(b"")
        socket.connect(address)
        threading.Thread(
            target=self._listen, args=(socket, wanted), name="mega-listener", daemon=True
        ).start()

    def _listen(self, socket: Any, wanted: Callable[[Component], bool]) -> None:
        while True:
            try:
                message = socket.recv()
            except zmq.ZMQError:  # the process ends
                return
            for component in msgspec.json.decode(message, type=list[Component]):
                if wanted(component):
                    self.prefetch(component)


def _erase(read: Future[PackedAdapter]) -> None:
    """Overwrite what was read for nobody."""
    if read.exception() is None:
        read.result().erase()
