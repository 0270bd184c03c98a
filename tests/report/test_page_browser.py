"""report.html in headless Chromium: sort, filter, search, open a row, theme, print."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment import HOSTILE, experiment
from rows import inputs

from gpt3mix_cli.records import Augmented, write_records
from gpt3mix_cli.report import ReportOptions, report
from gpt3mix_cli.report.render.page import visible

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]
WAIT = 15_000  # milliseconds, on a busy machine
FRAME = 250  # milliseconds of a frame on a busy machine with 100,000 rows; idle about 30
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # Continuous integration runs as root, where Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = experiment(tmp_path_factory.mktemp("run"), levels=("0.1%", "1%"))
    report(inputs(folder), folder / "report")
    return folder / "report" / "report.html"


@pytest.fixture
def open_page(browser: Any, page_path: Path) -> Iterator[Open]:
    """Open a page; fail at the end after any console message, error or other request."""
    trouble: list[str] = []
    contexts = []

    def resources(path: Path = page_path, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url == path.as_uri() else trouble.append(request.url[:100])
            ),
        )
        page.goto(path.as_uri())
        return page

    yield resources
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.hurt") is None
        context.close()
    assert not trouble


def column(page: Any, sheet: str, name: str) -> list[str]:
    """Return what a table's column shows, from above."""
    table = page.locator(f"[data-table='{sheet}']")
    field = table.locator(
        ".tabulator-col", has=page.locator(".tabulator-col-title", has_text=name)
    ).last.get_attribute("tabulator-field")
    return list(
        table.locator(
            f".tabulator-row .tabulator-cell[tabulator-field='{field}']"
        ).all_inner_texts()
    )


def heading(page: Any, sheet: str, name: str) -> Any:
    return page.locator(
        f"[data-table='{sheet}'] .tabulator-col", has=page.get_by_text(name, exact=True)
    ).last


def title(page: Any, sheet: str, name: str) -> Any:
    return heading(page, sheet, name).locator(".tabulator-col-title")


def wait_for(locator: Any, count: int) -> None:
    from playwright.sync_api import expect

    expect(locator).to_have_count(count, timeout=WAIT)


def test_a_click_on_a_heading_sorts_by_value(open_page: Open) -> None:
    page = open_page()
    page.locator("[data-table='intervals'] .tabulator-row").first.scroll_into_view_if_needed()
    before = column(page, "intervals", "mean")
    title(page, "intervals", "mean").click()
    assert column(page, "intervals", "mean") == sorted(before, key=float) != before
    title(page, "intervals", "mean").click()
    assert column(page, "intervals", "mean") == sorted(before, key=float, reverse=True)
    title(page, "intervals", "mean").click()
    assert column(page, "intervals", "mean") == before


def test_filters_take_words_and_bounds(open_page: Open) -> None:
    page = open_page()
    rows = page.locator("[data-table='intervals'] .tabulator-row")
    rows.first.scroll_into_view_if_needed()
    method = heading(page, "intervals", "method").locator("input")
    method.press_sequentially("GPT")
    wait_for(rows, 2)
    assert set(column(page, "intervals", "method")) == {"gpt3mix"}
    method.press("Control+a")
    method.press("Delete")
    wait_for(rows, 6)
    heading(page, "intervals", "mean").locator("input").press_sequentially("< 55")
    wait_for(rows, 4)
    assert all(float(value) < 55 for value in column(page, "intervals", "mean"))


def test_a_figure_in_a_plot_shows_its_value(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    figure = page.locator("figure[data-chart='accuracy-level']")
    figure.scroll_into_view_if_needed()
    dot = figure.locator(".panel g[aria-label='dot'] path").nth(1)
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = figure.locator("g[aria-label='tip']")
    shown.locator("text").first.wait_for()
    assert "accuracy (%): " in shown.text_content()
    assert "4 trials on 2 data seeds" in shown.text_content()
    fill = shown.locator("path").first.evaluate("(node) => getComputedStyle(node).fill")
    assert fill == figure.evaluate(
        "(node) => getComputedStyle(node).backgroundColor"
    )  # not white under light letters


def test_every_plot_is_drawn(open_page: Open) -> None:
    page = open_page()
    for chart in (
        "accuracy-level",
        "gain",
        "learning-curves",
        "entropy",
        "length",
        "labels",
        "cost",
    ):
        figure = page.locator(f"figure[data-chart='{chart}']")
        figure.scroll_into_view_if_needed()
        assert figure.locator(".panel svg").first.bounding_box()["width"] > 200
        assert "NaN" not in figure.inner_html()


def shown_rows(page: Any) -> list[str]:
    return list(
        page.locator(
            "#list .tabulator-row .tabulator-cell[tabulator-field='text']"
        ).all_inner_texts()
    )


def test_rows_are_searched_filtered_and_opened(open_page: Open) -> None:
    page = open_page()
    page.locator("#rows").scroll_into_view_if_needed()
    page.locator("#list .tabulator-row").first.wait_for()
    assert page.inner_text("#count") == "104 rows"
    page.fill("#search", "Film 11 SEED")
    page.get_by_text("8 rows", exact=True).wait_for()
    assert all("film 11 of seed" in text for text in shown_rows(page))
    page.select_option("select[data-key='method']", "eda")
    page.get_by_text("4 rows", exact=True).wait_for()
    page.fill("#search", "number 3")
    page.get_by_text("0 rows", exact=True).wait_for()
    page.check("#in-parents")
    page.select_option("select[data-key='method']", "gpt3mix")
    page.get_by_text("56 rows", exact=True).wait_for()

    page.locator("#list .tabulator-row").nth(3).click()
    row = page.locator("#row")
    assert "film 3 of seed 0" in row.inner_text()
    assert row.locator(".prob").count() == 2
    assert row.locator(".prob").first.inner_text().split() == ["pos", "45.0", "%"]
    assert [
        text.split(" </")[0]
        for text in row.locator("blockquote:not(.synthetic) .text").all_inner_texts()
    ] == [
        "a real film, number 0",
        "a real film, number 3",
    ]
    page.keyboard.press("ArrowDown")
    wait_for(row.get_by_text("gpt3mix film 4 of seed 0"), 1)


def test_rejected_rows_have_their_reasons_and_hostile_texts_are_texts(open_page: Open) -> None:
    page = open_page()
    page.locator("#rows").scroll_into_view_if_needed()
    page.select_option("select[data-key='state']", "rejected")
    page.get_by_text("8 rows", exact=True).wait_for()
    page.select_option("select[data-key='state']", "rejected: duplicate")
    page.get_by_text("4 rows", exact=True).wait_for()
    page.locator("#list .tabulator-row").first.click()
    assert page.locator("#row .synthetic").text_content() == f"rejected {visible(HOSTILE)}"
    assert f"of t0 {visible(HOSTILE)}" in page.locator("#row").text_content()
    assert "(not kept: gone)" in page.locator("#row").text_content()
    assert not page.locator("#row img, #row b, #list img").count()


def test_the_theme_is_changed_and_remembered(open_page: Open) -> None:
    page = open_page(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: light"
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: dark"
    dark = page.evaluate(background)
    assert dark != "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(background) == dark
    table = page.locator(".tabulator").first  # tables are drawn after the page has loaded
    assert table.evaluate("(node) => getComputedStyle(node).backgroundColor") == dark
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"  # paper is white
    assert open_page(color_scheme="dark").evaluate(background) == dark


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_row_opens_over_the_list(
    open_page: Open,
) -> None:
    page = open_page(viewport={"width": 375, "height": 740}, is_mobile=True, has_touch=True)
    for name in ("tables", "plots", "rows", "settings"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    page.locator("#rows").scroll_into_view_if_needed()
    assert not page.locator("#row").is_visible()
    page.locator("#list .tabulator-row").nth(1).tap()
    assert page.locator("#row").is_visible()
    page.locator("#row .close").tap()
    assert not page.locator("#row").is_visible()


def test_on_paper_tables_are_whole_and_plots_are_drawn(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
    assert page.locator("figure .panel svg").count() >= 7  # drawn although nobody scrolled there
    page.emulate_media(media="print")
    assert page.locator(".paper table").first.is_visible()
    assert not page.locator(".tabulator").first.is_visible()
    assert not page.locator("#theme").is_visible()


def test_without_scripts_tables_and_samples_can_be_read(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator(".paper table").first.is_visible()
    assert page.locator("#samples blockquote").first.is_visible()


def test_100_000_rows_scroll_and_are_searched_without_stutter(
    open_page: Open, tmp_path: Path
) -> None:
    folder = experiment(tmp_path, rows=1, hostile="")
    rows = (
        Augmented(
            id=f"g{number}",
            text=f"synthetic film number {number} with some more words",
            label="pos",
            probs={"pos": 0.7, "neg": 0.3},
            method="gpt3mix",
        )
        for number in range(100_000)
    )
    write_records(folder / "1pct" / "seed-0" / "gpt3mix.jsonl", rows)
    report(inputs(folder), tmp_path / "report", ReportOptions(synthetic_limit=None))
    page = open_page(tmp_path / "report" / "report.html")
    page.locator("#rows").scroll_into_view_if_needed()
    page.locator("#list .tabulator-row").first.wait_for()
    frames = page.evaluate(
        """async () => {
          const holder = document.querySelector("#list .tabulator-tableholder"), found = [];
          let last = performance.now();
          for (let step = 0; step < 100; step += 1) {
            holder.scrollTop += step % 10 ? 300 : 30000;
            await new Promise(requestAnimationFrame);
            found.push(performance.now() - last);
            last = performance.now();
          }
          return found.sort((a, b) => a - b);
        }"""
    )
    assert frames[94] < FRAME
    assert page.locator("#list .tabulator-row").count() < 200
    page.fill("#search", "number 99999 words")
    page.get_by_text("1 rows", exact=True).wait_for(timeout=3000)
    assert shown_rows(page) == ["synthetic film number 99999 with some more words"]
