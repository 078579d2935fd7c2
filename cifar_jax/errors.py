"""The exception whose message is meant for the user."""


class UserError(Exception):
  """An error that the user can fix: one line, `field: problem; what to do`.

  main.py prints the message without a traceback and exits with code 1.
  """

  def __str__(self) -> str:
    """Return the message as one line; escape characters that do not print."""
    text = super().__str__()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
