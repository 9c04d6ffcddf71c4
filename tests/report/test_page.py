"""The page in a browser without a network."""

import re
import shutil

import pytest

from tests.support.sweeps import ODD

pytestmark = [pytest.mark.xdist_group("finished sweep"), pytest.mark.long]  # a browser takes seconds

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is in the dev group")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, finished_sweep):
    """The report on a phone; fails the test if the page requests anything or logs an error."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    errors, requests = [], []
    opened.on("console", lambda message: errors.append(message.text))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((finished_sweep / "report.html").as_uri())
    yield opened
    opened.close()
    assert not errors
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}


def column(page, number, table=0):
    rows = page.locator(".scores").nth(table).locator("tbody tr")
    return [rows.nth(i).locator("th, td").nth(number).inner_text() for i in range(rows.count())]


def test_a_click_sorts_descending_and_then_ascending(page):
    before = column(page, 1)
    head = page.locator(".scores").first.locator("thead th:has(button)").nth(1)
    button = head.locator("button")
    means = sorted((float(re.split("±", text)[0]) for text in before), reverse=True)
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(re.split("±", text)[0]) for text in column(page, 1)] == means
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(re.split("±", text)[0]) for text in column(page, 1)] == means[::-1]
    page.locator(".scores").first.locator("thead th:has(button)").first.locator("button").click()
    assert head.get_attribute("aria-sort") is None


def test_numbers_are_sorted_as_numbers(page):
    page.locator("details").first.evaluate("details => details.open = true")
    runs = page.locator(".runs").first
    runs.locator("thead button").nth(3).click()
    seeds = [int(text) for text in runs.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert seeds == sorted(seeds, reverse=True)
    assert seeds[0] == 1000 and seeds[-1] == 0


def test_page_fits_a_phone_and_shows_every_image(page):
    page.locator("details").evaluate_all("all => all.forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    widths = page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert len(widths) == 20 + 2  # figures, and a picture of groups for each study
    assert min(widths) > 0


def test_user_text_is_shown_as_text(page):
    assert page.locator("main b").count() == 0
    assert ODD in page.locator(".scores").nth(1).inner_text()
    assert "profit <b>rose" in page.locator("pre").first.inner_text()


def test_a_command_can_be_copied(page):
    page.locator(".copy").first.click()
    assert page.evaluate("getSelection().toString()").startswith("python -m rgjax.sweep")
