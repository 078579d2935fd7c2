"""Tables as plain text, for modes that print them."""

import io
from collections.abc import Collection, Iterable, Sequence

from cifar_jax import errors

_MAX_WIDTH = 1_000_000  # characters; a table is never wrapped to the terminal's width


def format_table(
  header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> str:
  """Return rows as aligned lines with two spaces between columns, whatever the terminal.

  Args:
    header: the title of each column; titles of several lines are aligned at the bottom.
    rows: the cells of each row; characters that do not print are escaped.
    right: the indices of right-aligned columns; the others are left-aligned.

  Returns:
    The lines, joined by newlines, without colours, borders or trailing spaces.
  """
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
  for i, title in enumerate(header):
    table.add_column(
      Text(title), justify="right" if i in right else "left", vertical="bottom", no_wrap=True
    )
  for row in rows:
    table.add_row(*(Text(errors.printable(cell)) for cell in row))
  output = io.StringIO()
  Console(file=output, width=_MAX_WIDTH, color_system=None).print(table)
  return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
