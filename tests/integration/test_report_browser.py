"""Pages in a real browser: tables sort, galleries filter, nothing is asked of a network, a phone shows all of it."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_report import add_analysis, write_run

from hpa_ray.cli.main import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine"),
    # the driver leaves its pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, atlas: Path) -> dict[str, Path]:
    """A page of a run and one that compares two, as the verb writes them."""
    folder = tmp_path_factory.mktemp("pages")
    one = add_analysis(write_run(folder / "one", num_images=60), atlas / "train")
    two = write_run(folder / "two", "optim.lr=0.01", num_images=60, skill=6.0, seed=4)
    for name, runs in (("run", f"{one}"), ("comparison", f"{one},{two}")):
        assert main(["report", f"report.run={runs}", f"report.output={folder}/{name}.html"]) == 0
    return {name: folder / f"{name}.html" for name in ("run", "comparison")}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a browser of its own, with or without JavaScript."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    drivers = []

    def begin(*, script: bool = True) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for option in (*OPTIONS, f"--user-data-dir={tmp_path}/profile{len(drivers)}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not script:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        drivers.append(webdriver.Chrome(options=options, service=Service(str(DRIVER))))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.quit()


def asked(driver: Any) -> set[str]:
    """Addresses that the open page asked for, its own among them, but for data that it holds itself."""
    found = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            of_the_page = message["params"]["documentURL"] == driver.current_url  # and not of the browser's first tab
            if of_the_page and not url.startswith("data:"):
                found.add(url)
    return found


def shoot(driver: Any, page: Path, picture: Path, width: int) -> tuple[int, int]:
    """A screenshot of the whole page; the widths of its content and of the window."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(page.as_uri())
    found = driver.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
    height = driver.execute_script("return document.scrollingElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    picture.write_bytes(base64.b64decode(shot["data"]))
    return found[0], found[1]


def test_a_run_sorts_and_filters_and_asks_for_nothing(pages: dict[str, Path], start: Start) -> None:
    driver = start()
    driver.get(pages["run"].as_uri())
    column = "return [...document.querySelectorAll('#s3 tbody tr')].map(row => row.cells[{}].textContent)"
    head = "document.querySelectorAll('#s3 th button')[{}].click()"
    names = driver.execute_script(column.format(1))
    assert names[0] == "Nucleoplasm"
    assert len(names) == 28
    driver.execute_script(head.format(1))
    by_name = driver.execute_script(column.format(1))
    assert by_name == sorted(names, key=str.casefold)
    assert by_name != names
    driver.execute_script(head.format(2))
    images = [float(cell) for cell in driver.execute_script(column.format(2))]
    assert images == sorted(images, reverse=True)
    driver.execute_script(head.format(2))
    assert [float(cell) for cell in driver.execute_script(column.format(2))] == images[::-1]

    seen = (
        "return [...document.querySelectorAll('.gallery figure')].filter(tile => tile.offsetParent)"
        ".map(tile => [tile.getAttribute('data-value-0'), tile.getAttribute('data-value-1')])"
    )
    choose = (
        "const one = document.querySelectorAll('.filters select')[arguments[0]];"
        "one.value = arguments[1]; one.dispatchEvent(new Event('change'))"
    )
    tiles = driver.execute_script(seen)
    assert len(tiles) == 84
    driver.execute_script(choose, 0, "2 Nucleoli")
    assert {of for of, _ in driver.execute_script(seen)} == {"2 Nucleoli"}
    driver.execute_script(choose, 1, "right and sure")
    assert driver.execute_script(seen) == [["2 Nucleoli", "right and sure"]]
    assert (
        driver.execute_script("return document.querySelector('.filters [role=status]').textContent") == "1 of 84 shown"
    )
    driver.execute_script(choose, 0, "")
    driver.execute_script(choose, 1, "")
    assert driver.execute_script(seen) == tiles

    labels = driver.execute_script("return [...document.querySelectorAll('select')].map(one => one.labels.length)")
    assert labels == [1, 1]
    assert driver.get_log("browser") == []
    assert asked(driver) == {pages["run"].as_uri()}


@pytest.fixture(scope="module", params=["atlas", "tiles"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `train` ends with, of synthetic images and of real cells."""
    folder = tmp_path_factory.mktemp("trained")
    if request.param == "atlas":
        words = [f"data.shards={request.getfixturevalue('shards')}"]
    else:
        real = request.getfixturevalue("real_data")
        tiles, source = folder / "tiles", real / "images_other" / "PRBioimages_DULoc"
        command = [sys.executable, str(real / "make_tiles.py"), str(source), str(tiles)]
        subprocess.run(command, check=True, capture_output=True)
        words = [f"data.images={tiles}/train", f"data.labels={tiles}/train.csv", "data.image_size=64"]
    words += ["model.name=resnet18", "train.epochs=2", "train.num_workers=0", "split.parts=0.6/0.2/0.2"]
    assert main(["train", *words, f"run.storage={folder}", "run.name=run"]) == 0
    return folder / "run" / "report.html"


def test_what_train_leaves_sorts_and_filters_and_fits_a_phone(trained: Path, start: Start, tmp_path: Path) -> None:
    assert trained.stat().st_size < 5_000_000
    driver = start()
    for width in (1280, 390):
        content, window = shoot(driver, trained, tmp_path / f"{width}.png", width)
        assert content <= window == width
    tables = driver.execute_script(
        "return [...document.querySelectorAll('table')].map(table => {"
        " const cells = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);"
        " const before = cells(); const button = table.tHead.querySelector('button');"
        " button.click(); const once = cells(); button.click(); return [before, once, cells()]; })"
    )
    assert len(tables) >= 5
    for before, once, twice in tables:
        assert sorted(once) == sorted(before) == sorted(twice)
    assert any(once != twice for _, once, twice in tables)
    shown = "return [...document.querySelectorAll('.gallery figure')].filter(tile => tile.offsetParent).length"
    everything = driver.execute_script(shown)
    assert everything >= 10
    choices = "return [...document.querySelectorAll('.filters select')[0].options].map(one => one.value)"
    choose = (
        "const one = document.querySelectorAll('.filters select')[0];"
        "one.value = arguments[0]; one.dispatchEvent(new Event('change'))"
    )
    each = []
    for value in driver.execute_script(choices):
        driver.execute_script(choose, value)
        each.append(driver.execute_script(shown))
    assert each[0] == everything == sum(each[1:])  # all of them, then class by class
    assert driver.get_log("browser") == []
    assert asked(driver) == {trained.as_uri()}


def test_a_comparison_asks_for_nothing(pages: dict[str, Path], start: Start) -> None:
    driver = start()
    driver.get(pages["comparison"].as_uri())
    assert driver.execute_script("return document.querySelectorAll('table').length") == 4
    assert driver.get_log("browser") == []
    assert asked(driver) == {pages["comparison"].as_uri()}


def test_without_a_script_all_is_there(pages: dict[str, Path], start: Start) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    driver = start(script=False)
    driver.get(pages["run"].as_uri())
    tiles = driver.find_elements(By.CSS_SELECTOR, ".gallery figure")
    assert len(tiles) == 84
    assert all(tile.is_displayed() for tile in tiles[::12])
    assert not driver.find_element(By.CSS_SELECTOR, ".filters").is_displayed()
    more = driver.find_element(By.TAG_NAME, "details")
    inner = more.find_element(By.TAG_NAME, "table")
    assert not inner.is_displayed()
    more.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert inner.is_displayed()


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_screen_of_any_width_shows_all_of_it(
    name: str, width: int, pages: dict[str, Path], start: Start, tmp_path: Path
) -> None:
    content, window = shoot(start(), pages[name], tmp_path / f"{name}-{width}.png", width)
    assert content <= window == width
    assert (tmp_path / f"{name}-{width}.png").stat().st_size > 50_000


def test_paper_shows_what_is_folded_and_no_filters(pages: dict[str, Path], start: Start) -> None:
    from selenium.webdriver.common.by import By

    driver = start()
    driver.get(pages["run"].as_uri())
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not driver.find_element(By.CSS_SELECTOR, ".filters").is_displayed()
    assert not driver.find_element(By.TAG_NAME, "nav").is_displayed()
    assert driver.find_element(By.CSS_SELECTOR, "details table").is_displayed()
