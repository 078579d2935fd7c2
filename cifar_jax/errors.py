"""The exception for errors that the user can fix, and helpers for text that is safe to print."""


class UserError(Exception):
  """An error that the user can fix: one line, `field: problem; what to do`.

  main.py prints the message without a traceback and exits with code 1.
  """

  def __str__(self) -> str:
    """Return the message as one line, with unprintable characters escaped."""
    return printable(super().__str__())


def printable(text: object, keep: str = "") -> str:
  """Return `text` as one line, with unprintable characters escaped, except those in `keep`.

  File names may contain newlines and terminal control sequences.
  """
  return "".join(
    c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text)
  )


def first_line(error: BaseException) -> str:
  """Return the first line of an error's message, else its type; at most 200 characters."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return printable(" ".join(lines[0].split())[:200])


def describe(error: BaseException) -> str:
  """Return an error's type and message as one line of at most 200 characters."""
  return printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def is_out_of_memory(error: BaseException) -> bool:
  """Return whether an error of JAX or Python means that a device or the host is out of memory."""
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
