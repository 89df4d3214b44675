"""The files of the console: what is served, what it may do, and that nobody needs a key for it."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.http.running_app import build
from tests.http.test_entrance import Keys, asking, keys
from vllm_mega.http.console import files
from vllm_mega.http.console.files import BELOW, FILES, PAGE, is_console
from vllm_mega.http.console.routes import router

__all__ = ["keys"]  # a fixture
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/html"}
NAMED = re.compile(r"""(?:from |src=|href=)"([^"#]+)\"""")


@pytest.fixture
def app() -> Any:
    made = FastAPI()
    made.include_router(router)
    return made


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_with_what_it_may_do(app: Any, path: str) -> None:
    async with asking(app) as client:
        answer = await client.get(path)
        head = await client.head(path)
    assert (answer.status_code, answer.content) == (200, FILES[path].body)
    assert head.headers == answer.headers
    kind, _, encoding = answer.headers["content-type"].partition(";")
    assert kind == KINDS[Path(path).suffix]
    assert encoding.strip() == ("" if kind == "image/svg+xml" else "charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(f"{name}-src") for name in ("script", "style", "connect", "font")} == {"'self'"}
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy) == {"default-src", "form-action", "frame-ancestors", "base-uri", "trusted-types"}
    assert set(policy.values()) == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


async def test_what_a_browser_has_is_not_sent_again(app: Any) -> None:
    tag = FILES[PAGE].etag
    async with asking(app) as client:
        for known in (tag, f"W/{tag}", f'"other", {tag}'):
            answer = await client.get(PAGE, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
            assert "content-security-policy" in answer.headers
        assert (await client.get(PAGE, headers={"If-None-Match": '"other"'})).status_code == 200
    assert len({file.etag for file in FILES.values()}) == len(FILES)


def test_a_file_names_only_files_that_there_are() -> None:
    """Modules, styles and pictures, all beside the page; and each of them is of use."""
    named = set()
    for path, file in FILES.items():
        for name in NAMED.findall(file.body.decode()):
            assert "://" not in name or name == "http://www.w3.org/2000/svg", name
            if "://" not in name:
                named.add(str(httpx.URL(f"http://server{path}").join(name).path))
    assert named == set(FILES) - {PAGE}


def test_nothing_runs_or_looks_by_an_attribute() -> None:
    page = FILES[PAGE].body.decode()
    assert re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", page) == []
    for path, file in FILES.items():
        assert b"innerHTML" not in file.body, path
        lines = file.body.decode().splitlines()
        assert len(lines) <= 300, path
        assert path.endswith((".css", ".svg", PAGE)) or max(map(len, lines)) <= 120, path


def test_a_wheel_has_all_files(repo: Path) -> None:
    taken = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    static = Path(files.__file__).parent / "static"
    found = [path for path in static.rglob("*") if path.is_file()]
    assert len(found) == len(FILES), "a file of an unknown type is not served"
    for path in found:
        name = path.relative_to(repo / "vllm_mega").as_posix()
        assert any(fnmatch(name, pattern) and name.count("/") == pattern.count("/")
                   for pattern in taken["vllm_mega"]), name  # fmt: skip


@pytest.mark.parametrize("more", [[], ["--root-path", "/models"]])
async def test_nobody_needs_a_key_to_read_the_page(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, more: list[str]
) -> None:
    keys.add("alice")
    for app in (
        build(monkeypatch, *more, settings=keys.settings),
        build(monkeypatch, *more, "--api-key", "sesame"),
    ):
        async with asking(app) as client:
            for path in FILES:
                for place in {path, f"{app.root_path or ''}{path}"}:
                    assert (await client.get(place)).status_code == 200, place
                    assert (await client.head(place)).status_code == 200, place
                    assert (await client.post(place)).status_code == 401, place
            for place in (f"{PAGE}/", f"/{PAGE}", BELOW, f"{BELOW}nothing.js", f"{BELOW}..%2f", "/Mega",
                          f"{BELOW}static/app.js", "/mega/metrics", "/v1/mega/memories"):  # fmt: skip
                answer = await client.get(httpx.URL(f"http://server{place}"))
                assert answer.status_code == 401, place


def test_only_reading_is_open() -> None:
    assert is_console("GET", PAGE)
    assert is_console("HEAD", f"{BELOW}app.js")
    assert not is_console("DELETE", PAGE)
    assert not is_console("", PAGE), "a websocket has no method"
    assert not is_console("GET", f"{PAGE}/")


async def test_a_server_without_memory_has_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(build(monkeypatch, settings=None)) as client:
        assert (await client.get(PAGE)).status_code == 404
