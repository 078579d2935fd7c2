"""Sphinx configuration of the documentation site, which `make docs` builds into docs/_build.

The pages are the Markdown files of this folder, which are also readable without Sphinx. A link to a
repository file that is not a page of the site becomes the name of the file. reference.py writes the
reference pages from the code and converts the plain-text docstrings to reStructuredText.
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
exclude_patterns = ["_build", "jupyter_execute"]  # the output of Sphinx and of myst-nb
html_theme = "furo"
html_title = "cifar-jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
nb_execution_mode = "off"  # execute.py stores the output of the tour
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]  # <img> tags become images of the site, or warnings
default_role = "literal"
highlight_language = "none"
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # lists fields only in the docstring of their class
suppress_warnings = ["ref.python"]  # several modules have a field of the same name

# Files outside this folder, with the pages that include them.
_INCLUDED_BY = {
  "README.md": "index.md",
  "WORKSPACE.md": "design.md",
  "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\[([^\]\[]*)\]\(([^)\s]+)\)")


def _rewrite(text: str, folder: pathlib.Path, page_folder: pathlib.Path) -> str:
  """Return a page's text with its links adapted to the site.

  Args:
    folder: the folder that the links in the text are relative to.
    page_folder: the folder of the page that shows the text.
  """

  def replace(link: re.Match[str]) -> str:
    label, address = link.groups()
    path, _, anchor = address.partition("#")
    if "://" in address or not path:  # another site, or this page
      return link[0]
    file = (folder / path).resolve()
    name = str(file.relative_to(ROOT))
    page = ROOT / "docs" / _INCLUDED_BY[name] if name in _INCLUDED_BY else file
    if not page.is_relative_to(ROOT / "docs"):
      return _mention(name, label)
    page_address = os.path.relpath(page, page_folder)
    return f"[{label}]({page_address}#{anchor})" if anchor else f"[{label}]({page_address})"

  return _LINK.sub(replace, text)


def _mention(name: str, label: str) -> str:
  """Return the text that replaces a link to a file for which the site has no address."""
  if label == pathlib.PurePath(name).stem:  # such as a config in a table of results
    return f"`{label}`"
  return f"`{name}`" if label.strip("`/") in name else f"{label} (`{name}`)"


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
