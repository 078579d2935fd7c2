"""Write the reference pages of the site: the fields of a config, and the modules.

Everything is read from the code: the fields with their defaults and comments from
configs/default.py, the modules from the packages. Sphinx's autodoc then adds the docstrings.
"""

import inspect
import io
import pathlib
import re
import tokenize
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The packages in the reference, with a description of each.
PACKAGES = {
  "cifar_jax": "data, augmentation, optimization, training, run folders",
  "models": "the networks",
  "analysis": "uses of a trained network",
  "tuning": "sweeps and the learning-rate range test",
  "trust": "checks of how far results can be trusted",
  "serve": "the live page and its endpoints",
}


class Section(NamedTuple):
  """A section of the config: its name ('' for the top-level fields), text and fields.

  Attributes:
    fields: name, default and meaning; the meaning is empty if the section's text explains it.
  """

  name: str
  text: str
  fields: list[tuple[str, str, str]]


def config_sections() -> list[Section]:
  """Return the fields of a config, as configs/default.py lists and explains them.

  The comment above a section is its text. The comment above a field, or after it on the same line,
  is its meaning.
  """
  sections: dict[str, Section] = {"": Section("", "", [])}
  comment = ""
  source = (ROOT / "configs" / "default.py").read_text()
  for line in source.split("  config = ml_collections.ConfigDict()\n", 1)[1].splitlines():
    code, inline_comment = _split_comment(line)
    if not code:
      comment = f"{comment} {inline_comment}".strip() if inline_comment else ""
      continue
    name, equals, value = code.partition(" = ")
    if equals and name.startswith("config."):
      *parents, leaf = name.removeprefix("config.").split(".")
      if "ConfigDict()" in value and not parents:
        sections[leaf] = Section(leaf, comment, [])
      else:
        field = (".".join([*parents, leaf]), _format_default(value), inline_comment or comment)
        sections[".".join(parents[:1])].fields.append(field)
    comment = ""
  return list(sections.values())


def _split_comment(line: str) -> tuple[str, str]:
  """Return the code of a line and its comment, both stripped."""
  for token in tokenize.generate_tokens(io.StringIO(line.strip() + "\n").readline):
    if token.type == tokenize.COMMENT:
      column = token.start[1]
      return line.strip()[:column].strip(), token.string.lstrip("# ").strip()
  return line.strip(), ""


def _format_default(value: str) -> str:
  """Return a default as a user would write it."""
  value = value.removeprefix("ml_collections.FieldReference(").split(", field_type", 1)[0]
  return "(arguments)" if value.startswith("ml_collections.ConfigDict()") else value


def configuration_page() -> str:
  """Return the page of all fields as Markdown."""
  lines = [
    "# Fields of a config",
    "",
    "This page is made from [configs/default.py](../../configs/default.py). A flag sets a field:",
    "`--config.batch_size=256`. The arguments of a named part, such as",
    "`--config.schedule.warmup_epochs=5`, are further fields of its section;",
    "[What a config can name](../catalogue.md) lists the names.",
  ]
  for section in config_sections():
    title = f"`{section.name}`" if section.name else "The run"
    lines += ["", f"## {title}", "", *([_markdown(section.text), ""] if section.text else [])]
    lines += ["| field | default | meaning |", "|---|---|---|"]
    for name, default, text in section.fields:
      lines.append(f"| `{name}` | `{default}` | {_markdown(text)} |")
  return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
  """Return a comment as Markdown: quoted names become code, and other markup is escaped."""
  parts = re.split(r"(`[^`]+`|'[^' ]*')", text)
  return "".join(
    f"`{part.strip('`')}`" if i % 2 else re.sub(r"([*_|\\<>])", r"\\\1", part)
    for i, part in enumerate(parts)
  )


def module_names(package: str) -> list[str]:
  """Return the names of a package's modules that the reference shows."""
  files = sorted((ROOT / package).glob("**/*.py"))
  names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
  return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def module_page(package: str, meaning: str) -> str:
  """Return the page of a package's modules as Markdown."""
  lines = [f"# {package}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
  for name in module_names(package):
    lines += [
      f"## {name}",
      "",
      "```{eval-rst}",
      f".. automodule:: {name}",
      "   :members:",
      "```",
      "",
    ]
  return "\n".join(lines)


def write(folder: pathlib.Path) -> None:
  """Write the pages to a folder; do not touch those whose content is the same."""
  folder.mkdir(exist_ok=True)
  pages = {"configuration": configuration_page()}
  pages |= {
    name: module_page(name, text) for name, text in PACKAGES.items() if (ROOT / name).exists()
  }
  for name, content in pages.items():
    path = folder / f"{name}.md"
    if not path.exists() or path.read_text() != content:
      path.write_text(content)


_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):$")


def process_docstring(
  app: object, what: str, name: str, subject: object, options: object, lines: list[str]
) -> None:
  """Convert a docstring to reStructuredText, in place, before napoleon reads its sections.

  Indented paragraphs become literal blocks, lines `argument: meaning` without a heading become an
  `Args` section, and special characters of reStructuredText are escaped. Python's docstrings of
  NamedTuple fields, "Alias for field number 0", are left out.
  """
  parameters = set(inspect.signature(subject).parameters) if inspect.isfunction(subject) else set()
  result: list[str] = []
  in_section = False
  for paragraph in _paragraphs(lines):
    if paragraph[0].startswith("Alias for field number"):
      continue
    in_section = in_section or bool(_SECTION.match(paragraph[0]))
    if in_section:
      result += [*_convert_section(paragraph), ""]
    else:
      result += [*_convert_description(paragraph, parameters), ""]
  lines[:] = result


def _convert_description(paragraph: list[str], parameters: set[str]) -> list[str]:
  """Convert a paragraph that precedes the sections; give it a heading if it explains parameters."""
  if paragraph[0].startswith("  "):
    return ["::", "", *_indent(paragraph)]
  escaped = [_escape(line) for line in paragraph]
  names = escaped[0].partition(":")[0].split(", ")
  return ["Args:", *_indent(escaped)] if parameters.issuperset(names) else escaped


def _convert_section(paragraph: list[str]) -> list[str]:
  """Convert the first paragraph of a section, which begins with the heading, or a later one."""
  first, *rest = (_escape(line) for line in paragraph)
  # Without an empty line, napoleon takes the text before a colon for a type.
  return [first, "  \\ ", *rest] if first in ("Returns:", "Yields:") else [first, *rest]


def _indent(lines: list[str]) -> list[str]:
  return ["  " + line for line in lines]


def _paragraphs(lines: list[str]) -> list[list[str]]:
  """Return the groups of lines that are separated by blank lines."""
  groups: list[list[str]] = [[]]
  for line in lines:
    if line.strip():
      groups[-1].append(line)
    elif groups[-1]:
      groups.append([])
  return [group for group in groups if group]


def _escape(line: str) -> str:
  """Escape the special characters outside backquotes."""
  parts = re.split(r"(`[^`]*`)", line)
  return "".join(
    part if part.startswith("`") else re.sub(r"([*|])|(?<=\w)(_)(?=\W|$)", r"\\\g<0>", part)
    for part in parts
  )
