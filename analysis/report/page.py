"""Self-contained HTML pages: one file that includes its pictures and loads nothing.

Functions are named after the element that they return. They escape all text except `Html`, which
only this module creates. A click on a column's heading sorts a table in the browser, by the values
of `data-sort`.
"""

import base64
import datetime
import hashlib
import html
import json
import pathlib
import re
import string
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from etils import epath

from analysis.files import write_atomically
from cifar_jax.runs import plots

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# What an element may contain: text, numbers, other elements (Html), and sequences of these.
Content: TypeAlias = "str | float | Sequence[Content] | None"

COLOURS = (  # visible on white and on black
  *("#2f7ed8", "#f08020", "#2ca25f", "#d6453d", "#9a6fd0"),
  *("#a8744f", "#df6bb0", "#7f8a96", "#b3a41a", "#17a3b5"),
)
GREY = "#8c959f"  # visible on white and on black
_LONG_TABLE = 26  # from this number of rows, a table scrolls inside a box
_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")
_INK = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
_THEMES = {  # of charts, which are transparent
  "light": dict.fromkeys(_INK, "#30363d") | {"axes.edgecolor": GREY, "grid.color": GREY},
  "dark": dict.fromkeys(_INK, "#cfd6de") | {"axes.edgecolor": "#6e7781", "grid.color": GREY},
}
_CHART_STYLE: Any = {  # Any, because matplotlib's types accept only literal keys
  "figure.facecolor": "none",
  "axes.facecolor": "none",
  "savefig.dpi": 200,
}
SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const key = row => row.cells[column].dataset.sort;
    const numbers = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numbers;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = numbers ? x - y : x.localeCompare(y, undefined, {numeric: true});
      return down ? -order : order;
    });
    body.append(...rows);
  }));
}
"""


class Html(str):
  """Escaped text, which goes into a page unchanged."""


def tag(name: str, *children: Content, **attributes: str | float | None) -> Html:
  """Return an element; children and attributes that are None are left out.

  In the names of attributes, a trailing _ is dropped and any other becomes a hyphen.
  """
  attribute_text = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  if name in ("br", "img", "source", "wbr"):
    return Html(f"<{name}{attribute_text}>")
  return Html(f"<{name}{attribute_text}>{_render(children)}</{name}>")


def _render(child: Content) -> str:
  if isinstance(child, Html):
    return child
  if isinstance(child, list | tuple):
    return "".join(map(_render, child))
  return "" if child is None else html.escape(str(child))


class Cell(NamedTuple):
  """A cell of a table: its content, and its key for sorting (None: after all others)."""

  content: Content
  key: str | float | None


def text_cell(text: str | None) -> Cell:
  return Cell(text, str(text)) if text else Cell("–", None)


def number_cell(value: float | None, style: str = ",d", error: float | None = None) -> Cell:
  """Return a number in a format() style, followed by ± `error` if an error is given."""
  if value is None:
    return Cell("–", None)
  if error is None:
    return Cell(format(value, style), value)
  if style.endswith("%"):
    plain = style.removesuffix("%") + "f"
    return Cell(f"{100 * value:{plain}} ± {100 * error:{plain}}%", value)
  return Cell(f"{value:{style}} ± {error:{style}}", value)


def percent_cell(value: float | None) -> Cell:
  return number_cell(value, ".2%")


def duration_cell(seconds: float | None) -> Cell:
  if seconds is None:
    return Cell("–", None)
  if seconds < 60:
    shown = f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
  elif seconds < 3600:
    shown = "{} min {:02d} s".format(*divmod(round(seconds), 60))
  else:
    shown = "{} h {:02d} min".format(*divmod(round(seconds / 60), 60))
  return Cell(shown, seconds)


def table(
  header: Sequence[str],
  rows: Sequence[Sequence[Cell]],
  foot: Sequence[Sequence[Cell]] = (),
) -> Html:
  """Return a table that sorts by its columns; the rows of `foot` stay at the end."""
  columns = [[row[i].key for row in [*rows, *foot]] for i in range(len(header))]
  kinds = ["n" if _are_numbers(keys) else None for keys in columns]
  heads = [
    tag("th", tag("button", breakable(name), type="button"), class_=kind, scope="col")
    for name, kind in zip(header, kinds, strict=True)
  ]

  def line(row: Sequence[Cell]) -> Html:
    cells = [
      tag("td", cell.content if kind else tag("div", cell.content), class_=kind, data_sort=cell.key)
      for cell, kind in zip(row, kinds, strict=True)
    ]
    return tag("tr", cells)

  element = tag(
    "table",
    tag("thead", tag("tr", heads)),
    tag("tbody", [line(row) for row in rows]),
    tag("tfoot", [line(row) for row in foot]) if foot else None,
    class_="data sortable",
  )
  if len(rows) < _LONG_TABLE:
    return tag("div", element, class_="scroll", tabindex=0)
  count = tag("p", f"{len(rows):,} rows: scroll to see all.", class_="soft")
  return Html(tag("div", element, class_="scroll long", tabindex=0) + count)


def breakable(name: str) -> list[Content]:
  """Return a name that may wrap after a dot, a slash or an underscore."""
  first, *others = re.split(r"(?<=[./_])", name)
  return [first, *([tag("wbr"), other] for other in others)]


def code_cell(name: str) -> Cell:
  return Cell(tag("code", breakable(name)), name)


def value_cell(value: Any) -> Cell:
  """Return a value from a JSON file, as code."""
  text = json.dumps(value, ensure_ascii=False)
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return Cell(tag("code", text), value if is_number else text)


def format_time(stamp: str | None) -> str | None:
  """Return an ISO time in UTC, as results.json has it, to the minute."""
  return stamp and f"{stamp[:16].replace('T', ' ')} UTC"


def _are_numbers(keys: Sequence[str | float | None]) -> bool:
  known = [key for key in keys if key is not None]
  return bool(known) and all(isinstance(key, int | float) for key in known)


def facts(pairs: Sequence[tuple[str, Content]]) -> Html:
  """Return a list of names with their values; pairs whose value is None are left out."""
  return tag(
    "dl",
    [[tag("dt", name), tag("dd", value)] for name, value in pairs if value is not None],
    class_="facts",
  )


class Tile(NamedTuple):
  """An important figure: a name, a value and a note."""

  name: str
  value: Content
  note: str | None


def tiles(figures: Sequence[Tile]) -> Html:
  return tag(
    "dl",
    [
      tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None))
      for name, value, note in figures
    ],
    class_="tiles",
  )


def section(heading: str, *children: Content) -> Html:
  return tag("section", tag("h2", heading), *children, id=anchor(heading))


def anchor(heading: str) -> str:
  return heading.lower().replace(" ", "-")


def contents(headings: Sequence[str]) -> Html:
  return tag("nav", [tag("a", name, href=f"#{anchor(name)}") for name in headings])


def notice(*children: Content, bad: bool = False) -> Html:
  """Return a box that readers must not overlook."""
  return tag("div", tag("p", *children), class_="notice bad" if bad else "notice", role="note")


def image(path: epath.Path, alt: str) -> Html:
  """Return a PNG from a file; on narrow pages it stays legible and scrolls."""
  return tag("div", tag("img", src=_data_uri(path.read_bytes()), alt=alt), class_="wide")


def footer(*sources: epath.Path, mode: str = "report") -> Html:
  """Return the end of a page, which names the mode and the run folders that it was made from."""
  now = datetime.datetime.now(datetime.UTC).isoformat()
  names = [[", " if i else "", tag("code", str(source))] for i, source in enumerate(sources)]
  return tag("p", f"Made {format_time(now)} by --mode={mode} from ", names, class_="soft")


def chart(
  title: str, alt: str, draw: Callable[["Axes"], None], size: tuple[float, float] = (4.1, 2.7)
) -> Html:
  """Return a chart, drawn by `draw` once for light and once for dark pages.

  size: width and height in inches.
  """
  import matplotlib

  pictures = {}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "chart.png"
    for theme, colours in _THEMES.items():
      with (
        matplotlib.rc_context(_CHART_STYLE | colours),
        plots.figure(path, 1, 1, figsize=size) as (_, axis),
      ):
        draw(axis)
      pictures[theme] = _data_uri(path.read_bytes())
  picture = tag(
    "picture",
    tag("source", media="(prefers-color-scheme: dark)", srcset=pictures["dark"]),
    tag("img", src=pictures["light"], alt=alt),
  )
  return tag("figure", tag("figcaption", title), picture)


def write_page(path: epath.Path, title: str, body: Sequence[Html]) -> None:
  """Write a page; the file appears whole or not at all.

  Raises:
    OSError: the file cannot be written.
  """
  page = string.Template(_TEMPLATE.read_text("utf-8")).substitute(
    title=html.escape(title),
    body="\n".join(body),
    script=SORT,
    script_hash=base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode(),
  )
  # File names may hold bytes that are not UTF-8, which Python represents as lone surrogates.
  write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _data_uri(png: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(png).decode()}"
