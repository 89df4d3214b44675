"""The console in a real browser: every view, the key, and what must never happen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.gate.banks import CHESS, FERRY, KILN
from tests.http.console.browser import DESKTOP, PHONE, VIEWS, Watched, watch
from tests.http.console.server import SAID, ConsoleServer
from vllm_mega.bank.catalog.jobs import fail, lease, progress

EVIL = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
KEPT = "[sessionStorage, localStorage, document.cookie].map(one => JSON.stringify(one))"
SHARE = "node => getComputedStyle(node).getPropertyValue('--share')"


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def test_every_view_on_a_desk_and_on_a_phone_by_day_and_by_night(
    watched: Watched, server: ConsoleServer
) -> None:
    server.train(KILN, FERRY, CHESS)
    page = watched.open()
    papers = set()
    for size in (DESKTOP, PHONE):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            for view in (*VIEWS, "memories/kiln"):
                watched.open(view)
                name = view.partition("/")[0].capitalize()
                expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute(
                    "aria-current", "true"
                )
                expect(page.locator("main h1")).to_have_text(name)
                assert not watched.is_too_wide(), (view, size)
    assert len(papers) == 2, "light and dark look alike"
    expect(page.get_by_role("heading", name="The kiln")).to_be_visible()
    expect(page.get_by_role("link", name="All memories")).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")


def test_an_address_that_is_none_leads_to_the_memories(watched: Watched) -> None:
    for address in ("toString", "nowhere", "memories/%"):
        watched.refused = {404}
        watched.open(address)
        expect(watched.page.locator("main h1")).to_have_text("Memories")


def test_what_must_not_happen_is_seen(context: BrowserContext, server: ConsoleServer) -> None:
    """Else the other tests could not fail."""
    crimes = {
        "document.body.innerHTML = '<p>markup</p>'": "TrustedHTML",
        "document.body.setAttribute('style', 'color: red')": "inline style",
        "document.body.append(Object.assign(new Image(), {src: 'http://elsewhere.invalid/'}))": "elsewhere",
        "fetch('v1/mega/nothing')": "404 of",
        "setTimeout(() => { throw new Error('broken') })": "broken",
    }
    with server.running() as url:
        for crime, trace in crimes.items():
            watched = Watched(context, url)
            page = watched.open()
            expect(page.locator("#live")).to_have_text("live")
            page.evaluate(f"async () => {{ try {{ await ({crime}) }} catch (error) {{}} }}")
            page.wait_for_timeout(100)
            with pytest.raises(AssertionError, match=trace):
                watched.check()
            page.close()


def test_a_text_is_never_markup(watched: Watched, server: ConsoleServer) -> None:
    evil = {"id": "evil", "text": f"Beware of {EVIL}", "title": f"The sign {EVIL}", "tags": [EVIL[:60]]}
    server.tell({**evil, "links": []}, {"text": f"The bell {EVIL} rings."})
    page = watched.open("memories/evil")
    expect(page.get_by_role("heading", name=EVIL)).to_be_visible()
    expect(page.locator(".detail > .said")).to_have_text(evil["text"])
    expect(page.locator(".rows").get_by_text("The bell")).to_contain_text(EVIL)
    watched.open("chat")
    say(page, f"The sign {EVIL}?")
    expect(page.locator(".answer")).to_have_text(SAID)
    expect(page.locator(".question")).to_contain_text(EVIL)
    expect(page.locator(".beside .said")).to_contain_text(EVIL)
    watched.open("probe")
    page.get_by_role("searchbox").fill(f"sign {EVIL}")
    expect(page.locator(".bars").get_by_text("The sign")).to_contain_text(EVIL)
    watched.open("jobs")
    expect(page.locator("td").get_by_text("The sign")).to_contain_text(EVIL)
    assert page.locator("main img, main script").count() == 0
    assert "hit" not in page.title()


def test_beside_an_answer_are_the_memories_behind_it(watched: Watched, server: ConsoleServer) -> None:
    server.train(KILN, FERRY)
    server.tell({"id": "lamp", "text": "The lamp of Orsk burns nine nights."})
    page = watched.open("chat")
    expect(page.get_by_label("Model").locator("option").first).to_have_text("invented-base-mega")
    say(page, "Who fires blue tiles in a kiln?")
    expect(page.locator(".answer")).to_have_text(SAID)
    beside = page.locator(".beside")
    expect(beside.get_by_role("heading")).to_have_text("From 1 memory")
    expect(beside.locator(".bars").first.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"The kiln: weight 1\.00, score 0\.\d\d")
    )
    assert beside.locator(".fill").first.evaluate(SHARE) == "1"
    expect(beside).to_contain_text("version 1 as adapter")
    expect(beside).to_contain_text("20 tokens")
    beside.get_by_text("What they say").click()
    expect(beside.locator(".said")).to_have_text(KILN.text)
    say(page, "How many nights burns the lamp of Orsk?")
    expect(beside.nth(1)).to_contain_text("as text")
    expect(beside.nth(1).locator(".badge")).to_have_text("pending")
    expect(beside.nth(1).locator(".said")).to_have_text("The lamp of Orsk burns nine nights.")
    expect(beside.nth(1).get_by_role("link")).to_have_text("The lamp of Orsk burns nine nights.")
    say(page, "Seven times eight?")
    expect(beside.nth(2)).to_contain_text(re.compile(r"No memory was near enough.*0\.40"))
    beside.nth(2).get_by_text("Runners-up").click()
    assert beside.nth(2).locator(".line").first.evaluate(SHARE) == "0.4"
    page.get_by_label("Mode", exact=True).select_option("off")
    say(page, "Who fires blue tiles in a kiln?")
    expect(beside.nth(3)).to_contain_text("Memory was off.")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    with page.expect_request("**/v1/chat/completions") as asked:
        say(page, "Who fires blue tiles in a kiln?")
    assert [one["role"] for one in asked.value.post_data_json["messages"]] == ["user"]


def test_an_answer_can_be_stopped_and_a_refusal_is_told(
    watched: Watched, server: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.http.console.server.SECONDS_PER_WORD", 1.0)
    page = watched.open("chat")
    say(page, "Does it go on?")
    expect(page.locator(".answer")).to_contain_text("So")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".beside")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    watched.refused = {400}
    page.get_by_label("Namespace").fill("no such name!")
    page.keyboard.press("Enter")
    say(page, "Whose is this?")
    expect(page.locator(".beside").get_by_role("alert")).to_contain_text("namespace")


def test_the_probe_shows_the_threshold_as_a_line(watched: Watched, server: ConsoleServer) -> None:
    server.train(KILN, FERRY, CHESS)
    page = watched.open("probe")
    page.get_by_role("searchbox").fill("Who fires blue tiles in a kiln?")
    expect(page.get_by_text("1 memory would answer.")).to_be_visible()
    lines = page.locator(".bars .line")
    expect(lines).to_have_count(3)
    assert {lines.nth(n).evaluate(SHARE) for n in range(3)} == {"0.4"}
    assert len({round(lines.nth(n).bounding_box()["x"]) for n in range(3)}) == 1  # type: ignore[index]
    best = page.locator(".bar").first
    expect(best).to_have_attribute("data-strong", "")
    score = float(best.locator(".number").inner_text())
    assert float(best.locator(".fill").evaluate(SHARE)) == pytest.approx(score, abs=0.006)
    page.get_by_text("Other settings").click()
    page.get_by_role("spinbutton", name="Threshold").fill("0.99")
    expect(page.get_by_text(re.compile(r"The base model would answer: .* is below 0\.99"))).to_be_visible()
    assert lines.first.evaluate(SHARE) == "0.99"
    watched.refused = {400}
    page.get_by_label("Sharpness").fill("-1")
    expect(page.get_by_role("alert")).to_contain_text("beta")


def test_jobs_tell_how_they_go(watched: Watched, server: ConsoleServer) -> None:
    page = watched.open("jobs")
    expect(page.get_by_text("Nothing waits")).to_be_visible()
    server.tell({"id": "lamp", "text": "The lamp burns nine nights.", "title": "The lamp"})
    row = page.locator("tbody tr")
    expect(row).to_have_text(re.compile("waiting.*The lamp"))
    expect(page.get_by_text("Nobody trains at the moment.")).to_be_visible()
    catalog = server.service.catalog
    (held,) = lease(catalog, "one", 60)
    expect(row.locator(".badge")).to_have_text("training")
    expect(page.get_by_text("Nobody trains at the moment.")).to_have_count(0)
    progress(catalog, [held], 7)
    expect(row.locator("td").last).to_have_text(re.compile("^7 "))
    fail(catalog, held, "the loss is not finite")
    expect(row.locator(".reason")).to_have_text("the loss is not finite")
    page.get_by_label("Only in this state").select_option("failed")
    expect(page.get_by_text("No job is failed.")).to_be_visible()
    page.get_by_label("Only in this state").select_option("waiting")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name="The lamp")).to_be_visible()


def test_metrics_go_on_while_they_are_looked_at(watched: Watched, server: ConsoleServer) -> None:
    server.train(KILN)
    server.tell({"text": "The lamp burns nine nights."})
    page = watched.open("metrics")
    memories = page.get_by_role("group", name="Memories")
    expect(memories).to_contain_text("2")
    expect(memories.locator("li")).to_have_text(["pending 1", "ready 1"])
    expect(page.get_by_role("group", name="Found in a slot")).to_contain_text("75 %")
    expect(page.get_by_role("group", name="Loads").locator(".figure")).to_have_text("10")
    server.counts.loads = 1234
    expect(page.get_by_role("group", name="Loads").locator(".figure")).to_have_text("1,234")
    expect(page.locator(".spark polyline").first).to_have_attribute("points", re.compile(r"\d.* \d"))


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(context: BrowserContext, tmp_path: Path) -> None:
    server = ConsoleServer(tmp_path, keys=True)
    alice, ops = server.key("alice", "read", "sea", "land"), server.key("ops", "admin")
    for namespace in ("sea", "land"):
        server.tell({"text": f"The gull of the {namespace} is grey."}, namespace=namespace)
    with server.running() as url:
        for watched in watch(context, url):
            watched.refused = {401}
            page = watched.open()
            expect(page.get_by_role("dialog")).to_be_visible()
            give(page, "mega-nobodys")
            expect(page.get_by_role("dialog")).to_contain_text("Another key")
            give(page, bearer(alice))
            expect(page.locator(".rows .name")).to_have_text(["The gull of the sea is grey."])
            assert [json.loads(one) for one in page.evaluate(KEPT)] == [{"mega.key": bearer(alice)}, {}, ""]
            page.get_by_label("Namespace").fill("land")
            page.keyboard.press("Enter")
            expect(page.locator(".rows .name")).to_have_text(["The gull of the land is grey."])
            watched.refused = {401, 403}
            watched.open("add")
            page.get_by_label("Text").fill("It may not be told.")
            page.get_by_role("button", name="Remember").click()
            expect(page.get_by_role("alert")).to_contain_text("role")
            watched.open("metrics")
            expect(page.get_by_role("alert")).to_contain_text("a key with the role admin")
            page.get_by_role("button", name="Key").click()
            give(page, bearer(ops))
            expect(page.get_by_role("group", name="Memories")).to_contain_text("pending 2")
            page.get_by_role("button", name="Key").click()
            page.get_by_role("button", name="Forget the key").click()
            expect(page.get_by_role("dialog")).to_contain_text("Your key")
            assert page.evaluate("sessionStorage.getItem('mega.key')") is None


def give(page: Page, key: str) -> None:
    page.get_by_role("dialog").get_by_label("Key").fill(key)
    page.keyboard.press("Enter")


def bearer(header: dict[str, Any]) -> str:
    return str(header["Authorization"]).removeprefix("Bearer ")
