"""The page in a real browser: it shows what the server does, and why."""

import os
import re
import shutil
from pathlib import Path

import pytest

from hybrid_infer.testing import FakeRemote, Reply

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DOCS = Path(__file__).parents[2] / "docs"
KEY = "a-key-of-the-server"
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def remote():
    with FakeRemote(answers="tiny") as made:
        yield made


@pytest.fixture(scope="module")
def browser(remote):
    # It ends before the remote: while it lives, this thread counts as running an event loop.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def watched(start_server, remote):
    return start_server(
        *("--profile", "tiny", "--base-url", remote.url), HYBRID_INFER_SERVER_KEY=KEY
    )


@pytest.fixture
def open_page(browser, watched):
    """Opens the page; whatever it complains of, or asks of another machine, fails the test."""
    contexts, complaints = [], []

    def open_one(**options):
        credentials = {"username": "me", "password": KEY}
        context = browser.new_context(http_credentials=credentials, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(watched.url) else complaints.append(r.url),
        )
        page.goto(watched.url + "/")
        page.locator("#models tr").first.wait_for()
        return page

    open_one.complaints = complaints
    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


def text_of(page, selector):
    return page.locator(selector).inner_text()


def wait_for(page, selector, pattern):
    """Until the text of an element matches; the page's policy forbids what Playwright would evaluate."""
    page.locator(selector, has_text=re.compile(pattern)).wait_for()


def test_it_chats_compares_and_shows_a_fallback(open_page, remote):
    page = open_page(color_scheme="light", viewport={"width": 1100, "height": 1000})
    page.select_option("#compare-model", "embeddings/small")
    page.click("#compare button")
    wait_for(page, "#similarity", r"cosine -?0\.\d{4}")
    assert "huggingface" in text_of(page, "#similarity-route")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    wait_for(page, "#answer", r"\w{3}")
    page.locator("#chat button:enabled").wait_for()
    remote.enqueue(Reply(status=429, headers={"Retry-After": "600"}))
    page.click("#compare button")
    wait_for(page, "#fallbacks", "huggingface → local, rate limited")
    wait_for(page, "#targets", r"rate limited, 5\d\d s")
    assert "local copy" in text_of(page, "#models")
    if os.environ.get("HYBRID_INFER_SCREENSHOTS"):
        page.screenshot(path=DOCS / "server-page-light.png", full_page=True)


def test_a_phone_in_the_dark_does_not_scroll_sideways(open_page):
    page = open_page(color_scheme="dark", viewport={"width": 360, "height": 740})
    page.locator('#c-rate polyline[points*=" "]').wait_for(state="attached")  # two points: a line
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 27)"
    if os.environ.get("HYBRID_INFER_SCREENSHOTS"):
        page.screenshot(path=DOCS / "server-page-dark.png", full_page=True)


def test_the_keyboard_reaches_everything(open_page):
    page = open_page()
    reached = set()
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    wanted = {"chat-model", "prompt", "Send", "compare-model", "one", "two", "Compare"}
    assert wanted <= reached


def test_an_error_is_told_in_the_page(open_page):
    page = open_page()
    page.fill("#one", "x" * 100_001)
    page.click("#compare button")
    wait_for(page, "#similarity.bad", "100,000")
    (told,) = open_page.complaints  # the browser's own word for any status that is not good
    assert "400 (Bad Request)" in told
    open_page.complaints.clear()
