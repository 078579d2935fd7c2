"""HTML pages that stand alone: one file with its pictures inside, and nothing fetched.

All text is escaped on its way into a page, unless it is `Html` already, which is made here alone.
Tables are sorted in the browser by a click on a column's heading, on what is in `data-sort`.
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
from typing import Any, NamedTuple

from etils import epath

from cifar_jax.runs import plots

COLOURS = (  # seen well on white and on black
  *("#2f7ed8", "#f08020", "#2ca25f", "#d6453d", "#9a6fd0"),
  *("#a8744f", "#df6bb0", "#7f8a96", "#b3a41a", "#17a3b5"),
)
BETWEEN = "#8c959f"  # a grey, likewise
_LONG = 26  # rows from which on a table scrolls in a box of its own
_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")
_INK = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
_THEMES = {  # of charts; they stand on the page's own background
  "light": dict.fromkeys(_INK, "#30363d") | {"axes.edgecolor": BETWEEN, "grid.color": BETWEEN},
  "dark": dict.fromkeys(_INK, "#cfd6de") | {"axes.edgecolor": "#6e7781", "grid.color": BETWEEN},
}
_EVERY_THEME = {
  "figure.facecolor": "none",
  "axes.facecolor": "none",
  "savefig.dpi": 200,
}
_SORT = """
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
  """Text that is HTML."""


def tag(name: str, *children: Any, **attributes: str | float | None) -> Html:
  """An element; children and attributes are escaped, those that are None left out.

  Children are text, Html, or lists of them. In the names of attributes a trailing _ is dropped and
  any other is a hyphen.
  """
  text = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  if name in ("br", "img", "source", "wbr"):
    return Html(f"<{name}{text}>")
  return Html(f"<{name}{text}>{_inside(children)}</{name}>")


def _inside(child: Any) -> str:
  if isinstance(child, Html):
    return child
  if isinstance(child, list | tuple):
    return "".join(map(_inside, child))
  return "" if child is None else html.escape(str(child))


class Cell(NamedTuple):
  """A field of a table: what is shown, and what it is sorted by (None: after all others)."""

  content: Any
  key: str | float | None


def text(value: Any) -> Cell:
  return Cell("–", None) if value is None or value == "" else Cell(value, str(value))


def number(value: float | None, style: str = ",d", spread: float | None = None) -> Cell:
  """A number in a format() style, with ± `spread` behind it if there is one."""
  if value is None:
    return Cell("–", None)
  if spread is None:
    return Cell(format(value, style), value)
  if style.endswith("%"):
    bare = style.removesuffix("%") + "f"
    return Cell(f"{100 * value:{bare}} ± {100 * spread:{bare}}%", value)
  return Cell(f"{value:{style}} ± {spread:{style}}", value)


def percent(value: float | None, spread: float | None = None) -> Cell:
  return number(value, ".2%", spread)


def duration(seconds: float | None) -> Cell:
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
  """A table that sorts by its columns; `foot` stays below."""
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

  made = tag(
    "table",
    tag("thead", tag("tr", heads)),
    tag("tbody", [line(row) for row in rows]),
    tag("tfoot", [line(row) for row in foot]) if foot else None,
    class_="data sortable",
  )
  if len(rows) < _LONG:
    return tag("div", made, class_="scroll", tabindex=0)
  count = tag("p", f"{len(rows):,} rows: scroll to see them all.", class_="soft")
  return Html(tag("div", made, class_="scroll long", tabindex=0) + count)


def breakable(name: str) -> list[Any]:
  """A name that may go on in the next line after a dot, a slash or an underscore."""
  first, *others = re.split(r"(?<=[./_])", name)
  return [first, *([tag("wbr"), other] for other in others)]


def code(name: str) -> Cell:
  return Cell(tag("code", breakable(name)), name)


def value(of_field: Any) -> Cell:
  """A value out of a JSON file."""
  shown = json.dumps(of_field, ensure_ascii=False)
  is_number = isinstance(of_field, int | float) and not isinstance(of_field, bool)
  return Cell(tag("code", shown), of_field if is_number else shown)


def moment(stamp: str | None) -> str | None:
  """A time as results.json has it, in UTC, to the minute."""
  return stamp and f"{stamp[:16].replace('T', ' ')} UTC"


def _are_numbers(keys: Sequence[str | float | None]) -> bool:
  known = [key for key in keys if key is not None]
  return bool(known) and all(isinstance(key, int | float) for key in known)


def facts(pairs: Sequence[tuple[str, Any]]) -> Html:
  """Names and what they are, for few and unlike things."""
  return tag(
    "dl",
    [[tag("dt", name), tag("dd", value)] for name, value in pairs if value is not None],
    class_="facts",
  )


def tiles(figures: Sequence[tuple[str, Any, Any]]) -> Html:
  """The most important figures: a name, a value and what is to be said of it."""
  return tag(
    "dl",
    [
      tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None))
      for name, value, note in figures
    ],
    class_="tiles",
  )


def section(heading: str, *children: Any) -> Html:
  return tag("section", tag("h2", heading), *children, id=anchor(heading))


def anchor(heading: str) -> str:
  return heading.lower().replace(" ", "-")


def contents(headings: Sequence[str]) -> Html:
  return tag("nav", [tag("a", name, href=f"#{anchor(name)}") for name in headings])


def notice(*children: Any, bad: bool = False) -> Html:
  """What must not be overlooked."""
  return tag("div", tag("p", *children), class_="notice bad" if bad else "notice", role="note")


def image(path: epath.Path, alt: str) -> Html:
  """A PNG from a file, which keeps a size to be read at, and scrolls where the page is narrow."""
  return tag("div", tag("img", src=_data_uri(path.read_bytes()), alt=alt), class_="wide")


def made_from(*sources: Any) -> Html:
  """The end of a page."""
  now = datetime.datetime.now(datetime.UTC).isoformat()
  names = [[", " if i else "", tag("code", source)] for i, source in enumerate(sources)]
  return tag("p", f"Made {moment(now)} by --mode=report from ", names, class_="soft")


def chart(title: str, alt: str, draw: Callable[[Any], None]) -> Html:
  """A chart that `draw` makes on a matplotlib axes, once for light and once for dark pages."""
  import matplotlib

  pictures = {}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "chart.png"
    for theme, colours in _THEMES.items():
      with (
        matplotlib.rc_context(_EVERY_THEME | colours),
        plots.figure(path, 1, 1, figsize=(4.1, 2.7)) as (_, axis),
      ):
        draw(axis)
      pictures[theme] = _data_uri(path.read_bytes())
  picture = tag(
    "picture",
    tag("source", media="(prefers-color-scheme: dark)", srcset=pictures["dark"]),
    tag("img", src=pictures["light"], alt=alt),
  )
  return tag("figure", tag("figcaption", title), picture)


def write(path: epath.Path, title: str, body: Sequence[Html]) -> None:
  """Writes a page; the file appears whole or not at all."""
  page = string.Template(_TEMPLATE.read_text("utf-8")).substitute(
    title=html.escape(title),
    body="\n".join(body),
    script=_SORT,
    script_hash=base64.b64encode(hashlib.sha256(_SORT.encode()).digest()).decode(),
  )
  temporary = path.with_name(f".{path.name}.tmp")
  # Names of files may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
  temporary.write_bytes(page.encode("utf-8", "backslashreplace"))
  temporary.replace(path)


def _data_uri(png: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(png).decode()}"
