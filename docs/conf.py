"""Sphinx' configuration of the documentation site; `make docs` builds it into docs/_build.

The pages are the Markdown files of this folder, and read well without Sphinx. Links to files of the
repository that are no pages become the files' names. reference.py writes the pages of the reference
from the code, and makes reStructuredText of docstrings, which are plain text.
"""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import reference  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

project = "cifar-jax"
copyright = "the cifar-jax maintainers"
extensions = [
  "myst_nb",  # Markdown and notebooks
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "sphinx_copybutton",
]
exclude_patterns = ["_build", "jupyter_execute"]  # where myst-nb writes
html_theme = "furo"
html_title = "cifar-jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
nb_execution_mode = "off"  # the tour keeps its output, see execute.py
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]  # <img> becomes an image of the site, or a warning
default_role = "literal"
highlight_language = "none"
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields are listed by their class alone
suppress_warnings = ["ref.python"]  # several modules have a field of the same name

# Pages that lie outside of this folder, by the page that includes them.
_PAGES = {"README.md": "index.md", "WORKSPACE.md": "design.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^\]\[]*)\]\(([^)\s]+)\)")


def _rewrite(text: str, folder: pathlib.Path, page: pathlib.Path) -> str:
  """Return a page's text with the links that its place on the site needs.

  Args:
    folder: the folder that the text's relative links start from.
    page: the folder of the page that shows the text.
  """

  def replace(match: re.Match[str]) -> str:
    label, link = match.groups()
    path, _, anchor = link.partition("#")
    if "://" in link or not path:
      return match[0]
    target = (folder / path).resolve()
    name = str(target.relative_to(ROOT))
    anchor = f"#{anchor}" if anchor else ""
    target = ROOT / "docs" / _PAGES[name] if name in _PAGES else target
    if target.is_relative_to(ROOT / "docs"):
      return f"[{label}]({os.path.relpath(target, page)}{anchor})"
    # Other files are only named: the site is built from a checkout and has no address for them.
    if label == target.stem:  # as the configs in the tables of results
      return f"`{label}`"
    return f"`{name}`" if label.strip("`/") in name else f"{label} (`{name}`)"

  return _LINK.sub(replace, text)


def _read_page(app: Sphinx, name: str, content: list[str]) -> None:
  folder = pathlib.Path(app.env.doc2path(name)).parent
  content[0] = _rewrite(content[0], folder, folder)


def _read_included(app: Sphinx, path: pathlib.Path, name: str, content: list[str]) -> None:
  folder = (ROOT / "docs" / path).resolve().parent
  content[0] = _rewrite(content[0], folder, ROOT / "docs")


def setup(app: Sphinx) -> None:
  app.connect("builder-inited", lambda app: reference.write(pathlib.Path(app.srcdir, "reference")))
  app.connect("source-read", _read_page)
  app.connect("include-read", _read_included)
  app.connect("autodoc-process-docstring", reference.process_docstring, priority=400)
