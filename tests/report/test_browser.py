"""Pages in a real browser: without a network, filtered, on a phone, printed, photographed."""

import json
import os
import shutil
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from parimend.report import Chart, Column, Sheet, write_page
from tests.report.conftest import HOSTILE, sheet

pytestmark = pytest.mark.browser

DRAWN = "return document.querySelector('.figure').data.map(each => each.x.length)"


@pytest.fixture(scope="module")
def chrome():
    """One browser for all tests; a browser that is not there is an error, not a skip."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(chrome, tmp_path):
    """Opens a page with sheets: opened(sheets, width)."""

    def opened(sheets, width=1000):
        path = tmp_path / "page.html"
        write_page(sheets, path, HOSTILE[0])
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chrome.get_log("browser"), chrome.get_log("performance")
        chrome.get(path.as_uri())
        WebDriverWait(chrome, 60).until(
            lambda each: each.execute_script("return document.body.dataset.state")
        )
        assert chrome.execute_script("return document.body.dataset.state") == "ready"
        return chrome

    yield opened
    assert [entry["message"] for entry in chrome.get_log("browser")] == []


def rows(driver):
    return [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in driver.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]


def test_nothing_is_asked_of_a_network(opened):
    driver = opened([sheet()])
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [driver.current_url]


def test_filters_choose_rows_of_the_table_and_marks_of_the_figure(opened):
    driver = opened([sheet(names=["none", "secded"], layers=2)])
    assert len(rows(driver)) == 12
    assert driver.execute_script(DRAWN) == [3, 3, 3, 3]
    tick = driver.find_element(By.XPATH, "//label[contains(., 'secded')]/input")
    tick.click()
    assert {row[0] for row in rows(driver)} == {"none"}
    assert driver.execute_script(DRAWN) == [3, 3]
    assert "6 of 6 chosen of 12 rows" in driver.page_source
    tick.click()
    driver.find_element(By.XPATH, "//label[normalize-space()='10']/input").click()
    assert driver.execute_script(DRAWN) == [2, 2, 2, 2]
    assert len(rows(driver)) == 8


def test_what_is_shown_can_be_chosen(opened):
    given = sheet(names=["none", "secded", "mset"], layers=1)
    driver = opened([given])
    along, show = map(Select, driver.find_elements(By.TAG_NAME, "select"))
    y = "return document.querySelector('.figure').data[2].y"
    cells = given.values("silent")[6:]
    seen = [cell.value if cell.upper is None else cell.upper for cell in cells]
    assert driver.execute_script(y) == seen
    show.select_by_visible_text("kept, bytes")
    assert driver.execute_script(y) == [300, 300, 300]
    title = "return document.querySelector('.figure').layout.xaxis.title.text"
    assert driver.execute_script(title) == "count"
    along.select_by_visible_text("layer")
    assert driver.execute_script(title) == "layer"


def test_many_names_are_searched(opened):
    driver = opened([sheet(names=["none"], layers=20)])
    field = driver.find_element(By.CSS_SELECTOR, "input[type=search]")
    field.send_keys("LAYER.19")
    assert [row[1] for row in rows(driver)] == ["layer.19"] * 3
    assert driver.execute_script(DRAWN) == [3]


def test_hostile_names_are_shown_as_they_are(opened):
    driver = opened([sheet(names=HOSTILE, layers=1, by=("protection",))])
    assert driver.title == HOSTILE[0]
    assert driver.find_elements(By.TAG_NAME, "img") == []
    assert {HOSTILE[0], HOSTILE[1]} <= {row[0] for row in rows(driver)}
    legend = driver.find_elements(By.CSS_SELECTOR, ".figure .legendtext")
    assert HOSTILE[0] in {each.text for each in legend}


def test_nothing_is_put_into_names_that_are_pointed_at(opened):
    name = "%{text} of 50 %, %{x}"
    columns = (Column("fault", choice=True), Column("changed"))
    chart = Chart(("changed",), ("changed",), ("fault",))
    driver = opened([Sheet("s", "", columns, [(name, 1.0), ("none", 2.0)], chart)])
    point = "[{curveNumber: 0, pointNumber: 0}]"
    driver.execute_script(f"Plotly.Fx.hover(document.querySelector('.figure'), {point})")
    shown = "return [...document.querySelectorAll('.hoverlayer text')].map((x) => x.textContent)"
    WebDriverWait(driver, 60).until(lambda each: each.execute_script(shown))
    assert name in driver.execute_script(shown)


def test_tables_and_figures_have_names_and_are_reached_by_keys(opened):
    driver = opened([sheet()])
    table = driver.find_element(By.CSS_SELECTOR, ".scroll")
    assert table.accessible_name == "outcomes, table"
    driver.execute_script("arguments[0].focus()", table)
    assert driver.switch_to.active_element == table
    assert driver.find_element(By.CSS_SELECTOR, ".figure").accessible_name.startswith("outcomes")


def test_a_table_may_be_huge(opened):
    columns = (Column("layer"), Column("bytes", log=True))
    rows = [(f"l{i}", float(i + 1)) for i in range(150_000)]
    driver = opened([Sheet("sizes", "", columns, rows, Chart(("bytes",), ("bytes",), ()))])
    assert len(driver.find_elements(By.CSS_SELECTOR, "tbody tr")) == 500
    said = driver.find_element(By.CSS_SELECTOR, "[aria-live]").text
    [marks] = driver.execute_script(DRAWN)
    assert said == f"500 of 150,000 rows, marks of {marks:,} in the figure"
    assert 4_900 < marks < 5_100


def test_no_series_is_lost_among_many_rows(opened):
    columns = (Column("fault", choice=True), Column("layer"), Column("bytes"))
    faults = ["rare", *(["none", "bits", "words"] * 4000)]
    rows = [(fault, f"l{i}", float(i)) for i, fault in enumerate(faults)]
    chart = Chart(("bytes",), ("bytes",), ("fault",))
    driver = opened([Sheet("sizes", "", columns, rows, chart)])
    rare, *others = driver.execute_script(DRAWN)
    assert rare == 1
    assert len(others) == 3
    assert max(others) - min(others) < 5
    driver.find_element(By.XPATH, "//label[contains(., 'bits')]/input").click()
    driver.find_element(By.XPATH, "//label[contains(., 'words')]/input").click()
    assert driver.execute_script(DRAWN) == [1, 4000]


def test_a_phone_shows_one_column_and_paper_no_controls(opened, tmp_path):
    driver = opened([sheet(names=HOSTILE), sheet(lying=True, along=("layer",))], width=360)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    for figure in driver.find_elements(By.CSS_SELECTOR, ".figure"):
        assert 200 < figure.rect["width"] <= 360
    photograph = Path(tmp_path, "phone.png")
    driver.save_screenshot(str(photograph))
    assert photograph.read_bytes()[:4] == b"\x89PNG"
    controls = driver.find_element(By.CSS_SELECTOR, ".controls")
    assert controls.is_displayed()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not controls.is_displayed()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_dark_pages_have_light_text(opened):
    driver = opened([sheet()])
    look = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    light = driver.execute_script(look)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert driver.execute_script(look) != light
    font = "return document.querySelector('.figure').layout.font.color"
    WebDriverWait(driver, 20).until(lambda each: each.execute_script(font) == "#e8ebee")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
