"""The report page in a real browser: as a reader opens it, sorts, filters, points and walks through it by keyboard.

Where Chromium and its driver are not installed these are skipped: on Debian `apt-get install chromium chromium-driver`.
"""

import shutil
from pathlib import Path

import pytest
from reported import write_page, write_sweeps
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
QUIET = ["background-networking", "component-update", "sync", "gpu", "quic"]

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium with its driver; on Debian `apt-get install chromium chromium-driver`",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    output = write_sweeps(tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("given"))
    return write_page(output, "images", "vectors")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless", "no-sandbox", "no-first-run", *(f"disable-{what}" for what in QUIET)):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """The page, just opened, on a desktop; it must have nothing to complain of in the end either."""
    browser.set_window_size(1280, 900)
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def column(opened, table: str, number: int) -> list[str]:
    rows = opened.find_elements(By.CSS_SELECTOR, f"{table} tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows if row.is_displayed()]


def test_the_table_sorts_both_ways_and_says_so(opened):
    table = "#comparisons-table"
    opis = opened.find_element(By.CSS_SELECTOR, f"{table} th:nth-child(6) button")
    for direction in ("ascending", "descending"):
        opis.click()
        heading = opened.find_element(By.CSS_SELECTOR, f"{table} th:nth-child(6)")
        assert heading.get_attribute("aria-sort") == direction
        values = [float(cell.split()[0]) for cell in column(opened, table, 5)]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(values) == 2


def test_rows_are_filtered_by_words(opened):
    search = opened.find_element(By.CSS_SELECTOR, "input[data-filter=comparisons]")
    search.send_keys("smooth VECTORS")
    assert column(opened, "#comparisons-table", 0) == []
    search.clear()
    search.send_keys("features")
    assert column(opened, "#comparisons-table", 0) == ["features"]


def test_a_link_opens_its_comparison(opened):
    second = opened.find_element(By.ID, "c2")
    assert second.get_attribute("open") is None
    opened.find_element(By.CSS_SELECTOR, "#comparisons-table a[href='#c2']").click()
    assert second.get_attribute("open") is not None


def test_pointing_at_a_curve_names_its_class_on_both_sides(opened):
    curve = opened.find_element(By.CSS_SELECTOR, "#c1 g.class path")
    label = opened.execute_script("return arguments[0].parentElement.dataset.class", curve)
    opened.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", curve)
    lit = opened.find_elements(By.CSS_SELECTOR, "#c1 g.class.lit")
    assert [one.get_attribute("data-class") for one in lit] == [label] * 2
    assert opened.find_element(By.CSS_SELECTOR, "#c1 .pointed").text.startswith("class thing ")


def test_all_classes_are_listed_sorted_and_found_and_light_up_their_curves(opened):
    opened.find_element(By.CSS_SELECTOR, "#c1 details.classes summary").click()
    table = "#c1 table[data-classes]"
    assert len(column(opened, table, 0)) == 12
    opened.find_element(By.CSS_SELECTOR, f"{table} th:nth-child(4) button").click()
    changes = list(map(float, column(opened, table, 3)))
    assert changes == sorted(changes)
    opened.find_element(By.CSS_SELECTOR, "#c1 [data-classes-filter]").send_keys("THING 11")
    assert column(opened, table, 0) == ["thing 11"]
    row = opened.find_element(By.CSS_SELECTOR, f"{table} tbody tr")
    opened.execute_script("arguments[0].focus()", row)
    assert len(opened.find_elements(By.CSS_SELECTOR, "#c1 g.class.lit")) == 2


def test_the_keyboard_reaches_the_table_and_the_interval_of_a_cell(opened):
    keys = ActionChains(opened)
    keys.send_keys(Keys.TAB, Keys.ENTER).perform()  # the link that skips the head
    for _ in range(12):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        focused = opened.switch_to.active_element
        if focused.tag_name == "td":
            break
    assert focused.tag_name == "td"
    detail = focused.find_element(By.CLASS_NAME, "detail")
    assert detail.is_displayed()
    assert "without TCM" in detail.text


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_nothing_is_wider_than_the_window(opened, width, scheme):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in ("p", "td", "figcaption", ".better", ".worse", ".holds, .fails, .not-enough-data", "a", "svg text"):
        for element in opened.find_elements(By.CSS_SELECTOR, selector)[:1]:
            assert contrast(opened, element) >= 4.5, (selector, scheme)
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(opened, element) -> float:
    """Of an element's text against the page (WCAG 2)."""
    script = """
        const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const style = getComputedStyle(arguments[0]);
        const front = arguments[0] instanceof SVGElement ? style.fill : style.color;
        return [rgb(front), rgb(getComputedStyle(document.body).backgroundColor)];
    """
    front, back = opened.execute_script(script, element)

    def luminance(rgb):
        parts = [value / 255 for value in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)
