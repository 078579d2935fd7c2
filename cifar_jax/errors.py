"""The exception whose message is meant for the user, and text that is safe to print."""


class UserError(Exception):
  """An error that the user can fix: one line, `field: problem; what to do`.

  main.py prints the message without a traceback and exits with code 1.
  """

  def __str__(self) -> str:
    """Return the message as one line; escape characters that do not print."""
    return printable(super().__str__())


def printable(text: object, keep: str = "") -> str:
  """Return a text as one line, with characters that do not print escaped, except those in `keep`.

  File names may hold newlines, and sequences that control a terminal.
  """
  return "".join(
    c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text)
  )


def is_out_of_memory(error: BaseException) -> bool:
  """Return whether an error of JAX or Python reports too little memory, on a device or the host."""
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
