"""The documentation agrees with the repository: links, paths, names and quoted output."""

import json
import re

import pytest
import small_runs

import models
import modes
from cifar_jax import config
from cifar_jax.augment import chain, test_time
from cifar_jax.data import datasets
from cifar_jax.optim import optimizers, schedules
from cifar_jax.runs import results
from configs import default

ROOT = small_runs.ROOT
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(text):
  """Return the anchors that GitHub gives the headings of a page."""
  headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
  kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {heading.replace(" ", "-") for heading in kept}


def broken_links(page):
  """Return the relative links of a page that lead to no file, or to no heading of a page."""
  broken = []
  for link in (text or image for text, image in _LINK.findall(page.read_text())):
    if "://" in link:
      continue
    path, _, anchor = link.partition("#")
    target = (page.parent / path) if path else page
    if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
      broken.append(link)
  return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
  assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("# One two\n[a](page.md) [b](#one-two) [c](gone.md) [d](page.md#three)")
  assert broken_links(page) == ["gone.md", "page.md#three"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_of_the_repository_exist(page):
  """Backquoted paths such as `cifar_jax/data/` whose first part is in the repository."""
  text = re.sub(r"^New file `.*`", "", _FENCE.sub("", page.read_text()), flags=re.MULTILINE)
  for path in re.findall(r"`([\w.\-]+/[\w.\-/]*)`", text):
    if (ROOT / path.split("/")[0]).exists():
      assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_files_of_the_repository(page):
  text = page.read_text()
  packages = "benchmarks|analysis|serve|trust|tuning|cifar_jax"
  modules = re.findall(rf"python -m ((?:{packages})[\w.]*)", text)
  files = [module.replace(".", "/") + ".py" for module in modules]
  files += re.findall(r"(?:python |--config=|--sweep=)([\w/]+\.py)", text)
  new = re.findall(r"^New file `(.*)`", text, re.MULTILINE)
  assert [file for file in files if not (ROOT / file).exists() and file not in new] == []


def test_the_map_names_every_module():
  text = (ROOT / "WORKSPACE.md").read_text()
  folders = ("analysis", "cifar_jax", "serve", "trust", "tuning")
  files = [*ROOT.glob("*.py"), *(file for f in folders for file in (ROOT / f).glob("**/*.py"))]
  assert len(files) > 50
  missing = [
    str(file.relative_to(ROOT))
    for file in files
    if file.name != "__init__.py"
    and f"{file.name}`" not in text
    and f"`{file.parent.name}/`" not in text  # the map names the folders in analysis/
  ]
  assert missing == [], "name them in WORKSPACE.md"


def section(heading):
  text = (ROOT / "docs" / "catalogue.md").read_text()
  return re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
  ("heading", "registry"),
  [
    ("Models", models.list_names()),
    ("Datasets", datasets.REGISTRY),
    ("Augmentation", chain.TRANSFORMS),
    ("Test-time augmentation", test_time.KINDS),
    ("Optimizers", optimizers.METHODS),
    ("Schedules", schedules.SCHEDULES),
  ],
)
def test_the_catalogue_lists_every_name(heading, registry):
  names = set(re.findall(r"`(\w+)`", section(heading)))
  assert set(registry) <= names


def test_the_reference_has_every_field_and_its_meaning(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / "docs"))
  import reference

  sections = reference.config_sections()
  names = [name for section in sections for name, *_ in section.fields]
  defaults = config.flatten(default.get_config())
  assert {name for name in defaults if not name.startswith("proxy.model.")} <= {*names}
  for section in sections:
    for name, value, meaning in section.fields:
      assert meaning or section.text, name
      if name in defaults:
        assert repr(defaults[name]) == value.replace('"', "'") or eval(value) == defaults[name]


def test_every_page_is_in_the_table_of_contents_of_the_site():
  contents = set(re.findall(r"^(\w+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
  pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb")]
  assert {page.stem for page in pages} - {"index"} <= contents


def test_the_notebook_is_that_of_its_source():
  notebook = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
  source = (ROOT / "docs" / "tour.py").read_text()
  cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
  assert len(cells) == len(re.findall(r"^# %%$", source, re.MULTILINE))
  for cell in cells:
    assert "".join(cell["source"]) in source, "run python docs/execute.py"
    assert all(output["output_type"] != "error" for output in cell["outputs"])


def test_readme_lists_every_mode():
  table = set(re.findall(r"`--mode=(\w+)", (ROOT / "README.md").read_text()))
  assert table == set(modes.MODES) - {"train", "completion"}


def test_readme_fits_on_two_screens():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_readme_quotes_what_the_recorded_quick_start_printed():
  folder = ROOT / "benchmarks" / "results" / "quickstart"
  last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
  record = json.loads((folder / "results.json").read_text())
  printed = f"{results.epoch_line(last, 7)}\n{results.summarize(record)}\n"
  assert printed in (ROOT / "README.md").read_text()
