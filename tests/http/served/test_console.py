"""The console of a real server: a chat in the page says what the server says, from the same memories."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Route, expect

from tests.http.asking import MEGA, TOKENS, ask, text
from tests.http.console.browser import browser, watch
from tests.http.live_bank import ASKED, BAKERY
from tests.http.served.conftest import SLOTS

pytestmark = pytest.mark.engine


def plainly(route: Route) -> None:
    """Send what the page sends, so that the same is said each time."""
    body = {**route.request.post_data_json, "temperature": 0, "max_tokens": TOKENS, "seed": 1}
    route.continue_(post_data=json.dumps(body))


def test_a_chat_in_the_page_is_the_servers(client: openai.OpenAI, url: str, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as context:
        for watched in watch(context, url):
            watched.page.route("**/v1/chat/completions", plainly)
            page = watched.open("chat")
            expect(page.get_by_label("Model").locator("option").first).to_have_text(MEGA)
            page.get_by_label("Message").fill(ASKED["bakery"])
            page.keyboard.press("Enter")
            beside = page.locator(".beside")
            expect(beside.get_by_role("link", name="The bakery").first).to_be_visible()
            expect(beside).to_contain_text("version 1 as adapter")
            expect(beside).to_contain_text(re.compile(r"\d+ tokens"))
            assert page.locator(".answer").inner_text() == text(ask(client, ASKED["bakery"])).strip()
            beside.get_by_text("What they say").click()
            expect(beside.locator(".said").first).to_have_text(BAKERY.text)
            watched.open("metrics")
            expect(page.get_by_role("group", name="Slots in use")).to_contain_text(f"of {SLOTS}")
            expect(page.get_by_role("group", name="Requests with memory")).to_contain_text("memories")
