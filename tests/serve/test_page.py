"""The page in headless Chromium, through Playwright; skipped where one of the two is missing."""

import shutil

import pytest
from corner_network import make_run, photo_of, write_rows

from cifar_jax.runs.run_folder import RunFolder

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
    chromium = playwright.chromium.launch(**options)
    yield chromium
    chromium.close()


@pytest.fixture
def folder(tmp_path, corner_runs):
  """A copy of the runs that a test may change."""
  shutil.copytree(corner_runs, tmp_path / "runs")
  (tmp_path / "runs" / "first" / "results.json").unlink()
  return tmp_path / "runs"


@pytest.fixture
def opened(browser, start, folder):
  """A server, and a page that shows it and must log no error."""
  live, problems = start(folder), []
  page = browser.new_page()
  page.set_default_timeout(60_000)
  page.on("pageerror", lambda error: problems.append(str(error)))
  page.on("console", lambda line: problems.append(line.text) if "Policy" in line.text else None)
  page.on("request", lambda request: problems.extend(_elsewhere(request.url, live.address)))
  page.goto(live.address)
  yield live, page
  page.close()
  assert problems == []


def _elsewhere(url, address):
  return [] if url.startswith((address, "blob:", "data:")) else [url]


def choose_photo(page, name="corner.png", which="top_right"):
  file = {"name": name, "mimeType": "image/png", "buffer": photo_of(which)}
  page.set_input_files("#files", [file])


def drop_file(page, name, content):
  """Drop a file as a user does, with a DataTransfer that the page's script reads."""
  transfer = page.evaluate_handle(
    """([name, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
      return transfer;
    }""",
    [name, list(content)],
  )
  page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def test_a_curve_grows_while_the_run_trains(opened, folder):
  _, page = opened
  curve = page.locator(".curve:not(.dashed)").first
  curve.wait_for()
  before = curve.get_attribute("d").count("L")
  write_rows(folder / "first", 6)
  page.locator(".run", has_text="first").locator("dd", has_text="6 / ").wait_for()
  page.locator("summary", has_text="Table").first.click()
  page.locator("tbody tr", has_text="60.00 %").wait_for()  # of the sixth epoch
  assert (before, curve.get_attribute("d").count("L")) == (2, 5)


def test_a_run_that_starts_later_appears_with_its_curve(opened, folder):
  _, page = opened
  page.locator(".curve").first.wait_for()
  make_run(folder / "later")
  write_rows(folder / "later", 4)
  with RunFolder(folder / "later").locked():
    page.locator(".run", has_text="later").locator(".chip.training").wait_for()
    page.locator(".plot svg[aria-label*='later, validation: 40.00 % after 4 epochs']").wait_for()
  for box in page.locator(".run input").all():
    box.check()
  colours = page.locator(".run input:checked").evaluate_all(
    "boxes => boxes.map(box => box.style.getPropertyValue('--colour'))"
  )
  assert len(colours) == len(set(colours)) == 3
  page.locator(".run", has_text="later").locator(".chip.stopped").wait_for()


def test_dropped_photos_are_answered_by_each_chosen_network(opened):
  _, page = opened
  page.get_by_role("tab", name="Photos").click()
  page.get_by_role("checkbox", name="first").wait_for()
  page.get_by_role("checkbox", name="second").check()
  drop_file(page, "<b>corner</b>.png", photo_of("bottom_left"))
  drop_file(page, "broken.png", b"no photo")
  page.locator("#progress", has_text="2 photos classified.").wait_for()
  card, broken = page.locator(".photo").all()
  assert card.locator("figcaption").inner_text() == "<b>corner</b>.png"
  assert [text.split("\n")[0] for text in card.locator(".answer strong").all_inner_texts()] == [
    "bottom_left",
    "bottom_left",
  ]
  assert card.locator(".ranks li").count() == 8  # four classes, two networks
  assert broken.inner_text().endswith("Cannot be used: not an image")
  card.get_by_role("button", name="Show where it looks").first.click()
  card.locator("figcaption", has_text="Evidence for bottom_left, by first").wait_for()
  card.get_by_role("button", name="Show the photo").click()
  card.locator("figcaption", has_text="corner").wait_for()


def test_a_photo_is_sent_again_after_a_restart_in_mid_request(opened):
  live, page = opened
  page.get_by_role("tab", name="Photos").click()
  page.get_by_role("checkbox", name="first").wait_for()
  live.stop(at_once=True)
  choose_photo(page)
  page.locator("#trouble", has_text="cannot be reached").wait_for()
  live.start()
  page.locator(".answer strong", has_text="top_right").wait_for()
  page.locator("#trouble").wait_for(state="hidden")


def test_everything_is_reached_and_read_by_keyboard(opened):
  _, page = opened
  page.locator(".curve").first.wait_for()
  page.keyboard.press("Tab")
  assert page.locator(":focus").inner_text() == "Skip to the content"
  page.keyboard.press("Tab")
  page.keyboard.press("ArrowRight")
  assert page.locator(":focus").inner_text() == "Photos"
  assert page.locator("#photos").is_visible()
  page.keyboard.press("ArrowLeft")
  chart = page.locator(".chart svg").first
  chart.focus()
  page.keyboard.press("End")
  page.keyboard.press("ArrowLeft")
  spoken = page.locator(".chart [aria-live]").first
  assert spoken.inner_text() == "Epoch 2: first validation 20.00 %, first training 22.22 %"
  label = chart.get_attribute("aria-label")
  assert label.startswith("Accuracy by epoch. first, validation: 30.00 % after 3 epochs.")


def test_details_show_settings_and_pictures(opened):
  _, page = opened
  page.get_by_role("button", name="Details of first").click()
  page.locator("#details h2", has_text="first").wait_for()
  assert page.locator("#details").get_by_text("model.has_convolution").first.is_visible()
  picture = page.locator("#details img")
  picture.scroll_into_view_if_needed()
  assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8


@pytest.mark.parametrize("view", ["", "#photos", "docs"])
def test_a_phone_shows_every_view_without_scrolling_sideways(opened, view):
  live, page = opened
  page.set_viewport_size({"width": 360, "height": 740})
  page.goto(f"{live.address}{view}")
  page.locator(
    {"": ".curve", "#photos": "#networks input", "docs": ".docs section"}[view]
  ).first.wait_for()
  assert page.evaluate("document.documentElement.scrollWidth") <= 360
