"""Memories in the console: a whole life by keyboard, what others do meanwhile, and documents."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.gate.banks import CHESS, FERRY, KILN
from tests.http.console.browser import Watched
from tests.http.console.server import ConsoleServer
from tests.http.memories.server import MEMORIES
from vllm_mega.http.memories import asked

MOST_TABS = 40
FOCUSED = "document.activeElement.textContent || document.activeElement.ariaLabel"
DROP = """(zone, [name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  for (const kind of ["dragover", "drop"])
    zone.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""
VILLAGE = "# The mill\n\nIt grinds by moonlight.\n\n# The bridge\n\nIt counts who crosses.\n"


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what is called so."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if str(page.evaluate(FOCUSED)).strip().startswith(name):
            return
    raise AssertionError(f"{name} is not reached by Tab")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def names(page: Page) -> Any:
    return page.locator(".rows .name")


def by_api(watched: Watched, method: str, memory: str, **more: Any) -> None:
    """What somebody else does."""
    httpx.request(method, f"{watched.url}{MEMORIES}/{memory}", timeout=60, **more).raise_for_status()


def test_a_memory_lives_by_keyboard_alone(watched: Watched) -> None:
    page = watched.open()
    expect(page.get_by_text("Nothing is remembered in this namespace yet.")).to_be_visible()
    press(page, "n")
    expect(page.get_by_label("Text")).to_be_focused()
    page.keyboard.type("Four oxen pull the ferry.")
    press(page, "Tab")
    page.keyboard.type("The ferry")
    press(page, "Tab")
    page.keyboard.type("travel, sill")
    press(page, "Enter")
    expect(page.locator(".done")).to_contain_text("Stored as")
    expect(page.get_by_label("Text")).to_be_focused()
    tab_to(page, "m-")
    press(page, "Enter")
    expect(page.get_by_role("heading", name="The ferry")).to_be_focused()
    press(page, "/")
    expect(page.get_by_label("Search memories")).to_be_focused()
    press(page, "ArrowDown", "Enter")
    tab_to(page, "Edit")
    press(page, "Enter")
    expect(page.get_by_label("Text")).to_be_focused()
    press(page, "ControlOrMeta+A")
    page.keyboard.type("Six oxen pull the ferry.")
    tab_to(page, "Save")
    press(page, "Enter")
    expect(page.locator(".versions del")).to_have_text("Four")
    expect(page.locator(".versions ins")).to_have_text("Six")
    tab_to(page, "Restore")
    press(page, "Enter")
    expect(page.locator(".detail > .said")).to_have_text("Four oxen pull the ferry.")
    expect(page.locator(".versions > li")).to_have_count(3)
    tab_to(page, "Pin")
    press(page, "Enter")
    expect(page.locator(".detail .pin")).to_be_visible()
    tab_to(page, "Forget")
    press(page, "Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    press(page, "Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", name="The ferry")).to_be_visible()
    tab_to(page, "Forget")
    press(page, "Enter", "Tab", "Enter")
    expect(page.get_by_text("Nothing is remembered in this namespace yet.")).to_be_visible()


def test_arrows_move_in_the_list_and_escape_leads_back(watched: Watched, server: ConsoleServer) -> None:
    server.train(KILN, FERRY, CHESS)
    page = watched.open()
    rows = page.locator(".rows a")
    expect(rows).to_have_count(3)
    press(page, "/", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown")
    expect(rows.nth(2)).to_be_focused()
    press(page, "Home", "End", "ArrowUp", "Enter")
    expect(page.get_by_role("heading", name="The ferry")).to_be_focused()
    expect(rows.nth(1)).to_have_attribute("aria-current", "true")
    press(page, "Escape")
    expect(rows.nth(1)).to_be_focused()
    expect(page.get_by_text("Choose a memory")).to_be_visible()


def test_who_was_slower_decides(watched: Watched, server: ConsoleServer) -> None:
    server.tell({"id": "ferry", "text": "Four oxen pull the ferry.", "title": "The ferry"})
    page = watched.open("memories/ferry")
    watched.refused = {412}
    for mine, theirs, button, kept in (
        ("Five oxen pull it.", "Six oxen pull it.", "Reload theirs", "Six oxen pull it."),
        ("Five oxen pull it.", "Two oxen pull it.", "Save mine over it", "Five oxen pull it."),
    ):
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Text").fill(mine)
        by_api(watched, "PATCH", "ferry", json={"text": theirs, "tags": ["told"]})
        page.get_by_role("button", name="Save", exact=True).click()
        conflict = page.get_by_role("alert")
        expect(conflict).to_contain_text("Somebody changed this memory")
        expect(conflict.locator("del")).to_have_text(theirs.split()[0])
        expect(conflict.locator("ins")).to_have_text("Five")
        page.get_by_role("button", name=button).click()
        expect(page.locator(".detail > .said")).to_have_text(kept)
        expect(page.locator(".detail .tag").first).to_have_text("told")


def test_what_comes_too_late_is_not_done(watched: Watched, server: ConsoleServer) -> None:
    server.tell({"id": "ferry", "text": "Four oxen pull the ferry."})
    watched.page.route("**/v1/mega/events*", lambda route: route.abort())
    watched.refused = {412}
    page = watched.open("memories/ferry")
    expect(page.locator(".detail > .said")).to_have_text("Four oxen pull the ferry.")
    by_api(watched, "PATCH", "ferry", json={"text": "Six oxen pull the ferry."})
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(page.get_by_role("alert")).to_contain_text("nothing was done")
    expect(page.locator(".detail > .said")).to_have_text("Six oxen pull the ferry.")
    expect(page.locator("#live")).to_have_text("offline")


def test_what_others_do_is_seen_as_it_happens(watched: Watched, server: ConsoleServer) -> None:
    page = watched.open()
    expect(page.locator("#live")).to_have_text("live")
    server.tell({"id": KILN.id, "text": KILN.text, "title": "The kiln"})
    expect(names(page)).to_have_text(["The kiln"])
    names(page).click()
    badge = page.locator(".detail .badge")
    expect(badge).to_have_text("pending")
    server.train(KILN)
    expect(badge).to_have_text("ready")
    expect(page.locator(".rows .badge")).to_have_text("ready")
    expect(page.locator(".detail")).to_contain_text("answers from its adapter")
    watched.refused = {404}  # where it is read once more before the page has heard of it
    by_api(watched, "DELETE", KILN.id)
    expect(page.get_by_text("There is no memory kiln in this namespace.")).to_be_visible()


def test_a_memory_retires_and_expires(watched: Watched, server: ConsoleServer) -> None:
    server.tell({"id": "ferry", "text": "Four oxen pull the ferry.", "title": "The ferry"})
    page = watched.open("memories/ferry")
    page.get_by_role("button", name="Retire").click()
    expect(page.locator(".detail .meta").first).to_contain_text("retired")
    expect(page.locator(".detail .meta").first).to_contain_text("does not answer")
    page.get_by_role("button", name="Unretire").click()
    expect(page.locator(".detail .meta").first).to_contain_text("answers as text")
    for given, told in (("2099-01-02T03:04", "2099-01-02T03:04:00Z"), ("", None)):
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Expires").fill(given)
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".facts").get_by_text("2099")).to_have_count(1 if given else 0)
        assert httpx.get(f"{watched.url}{MEMORIES}/ferry").json()["expires_at"] == told


def test_where_there_are_no_more_streams_the_server_is_asked(
    watched: Watched, server: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_mega.http.memories.streaming.MOST", 0)
    watched.refused = {503}
    page = watched.open()
    expect(page.locator("#live")).to_have_text("every 3 s")
    server.tell({"text": "The lamp burns nine nights."})
    expect(names(page)).to_have_text(["The lamp burns nine nights."])


def test_a_list_is_narrowed_and_goes_on(watched: Watched, server: ConsoleServer) -> None:
    server.tell(*({"text": f"Stone {n} of the wall.", "title": f"Stone {n}"} for n in range(60)))
    server.tell({"text": KILN.text, "title": "The kiln", "tags": ["craft"]})
    page = watched.open()
    expect(names(page)).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(names(page)).to_have_count(61)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    page.get_by_label("Only with this tag").fill("craft")
    expect(names(page)).to_have_text(["The kiln"])
    page.get_by_label("Only in this state").select_option("ready")
    expect(page.get_by_text("No memory is like that.")).to_be_visible()
    page.get_by_role("button", name="Show all memories").click()
    expect(names(page)).to_have_count(50)
    page.get_by_label("Search memories").fill("Who fires blue tiles in a kiln?")
    expect(names(page).first).to_have_text("The kiln")
    expect(page.locator(".rows .score").first).to_have_text(re.compile(r"0\.\d\d"))
    names(page).first.click()
    page.locator(".facts").get_by_role("button", name="craft").click()
    expect(names(page)).to_have_text(["The kiln"])


def test_documents_are_shown_before_they_are_remembered(watched: Watched, server: ConsoleServer) -> None:
    page = watched.open("add")
    page.locator(".drop").evaluate(DROP, ["village.md", VILLAGE])
    parts = page.locator(".documents tbody tr")
    expect(parts).to_have_text([re.compile("added.*The mill"), re.compile("added.*The bridge")])
    assert httpx.get(f"{watched.url}{MEMORIES}").json()["data"] == [], "so far, nothing was done"
    page.get_by_role("button", name="Do it: 2 changes").click()
    expect(page.locator(".done")).to_contain_text("Done: 2 added.")
    changed = VILLAGE.replace("moonlight", "starlight").encode()
    page.get_by_label("choose files").set_input_files(
        {"name": "village.md", "mimeType": "text/markdown", "buffer": changed}
    )
    expect(page.get_by_text(re.compile("Would be: .*1 kept"))).to_be_visible()
    page.get_by_role("button", name="Put away").click()
    expect(page.locator(".documents > li")).to_have_count(1)
    watched.open()
    expect(names(page)).to_have_count(2)


def test_a_document_that_cannot_be_is_refused_with_the_reason(watched: Watched) -> None:
    page = watched.open("add")
    watched.refused = {400}
    for name, text, reason in (
        ("village.xyz", "Some text.", ".xyz"),
        ("large.txt", "x" * (1 << 21), "divide it first"),
    ):
        page.locator(".drop").evaluate(DROP, [name, text])
        expect(page.locator(".documents > li").first.get_by_role("alert")).to_contain_text(reason)


def test_a_refusal_stands_where_it_was_asked(watched: Watched) -> None:
    page = watched.open("add")
    watched.refused = {400}
    page.get_by_role("button", name="Remember").click()
    expect(page.get_by_role("alert")).to_contain_text("text")
    page.get_by_label("Text").fill("Now there is one.")
    page.get_by_role("button", name="Remember").click()
    expect(page.locator(".done")).to_contain_text("Stored as")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_page_asks_for_no_more_than_the_server_gives(repo: Any) -> None:
    source = (repo / "vllm_mega/http/console/static/views/memories.js").read_text()
    found = {name: int(number) for name, number in re.findall(r"const (\w+) = (\d+);", source)}
    assert found["MOST"] <= asked.MOST_LISTED
    assert found["MOST_FOUND"] <= asked.MOST_FOUND
