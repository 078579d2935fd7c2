"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
  """Something the user can mend: one line naming the field or file, what is wrong and the remedy.

  main.py prints the message without a traceback and exits with a non-zero code.
  """

  def __str__(self) -> str:
    """One line, whatever a message quotes of files: what does not print is escaped."""
    text = super().__str__()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
