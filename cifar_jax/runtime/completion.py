"""Completion of the command line in bash and zsh: modes, flags, config fields and files."""

from collections.abc import Sequence

_SCRIPT = """\
# Completion of cifar-jax and of 'python main.py'. In ~/.bashrc or ~/.zshrc:
#   source <(cifar-jax completion)
if [ -n "${{ZSH_VERSION:-}}" ]; then
  autoload -U +X compinit && compinit -u
  autoload -U +X bashcompinit && bashcompinit
fi
_cifar_jax() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  # Bash splits words at '=': --flag, =, value.
  [ "$word" = "=" ] && word=""
  [ "$before" = "=" ] && before=${{COMP_WORDS[COMP_CWORD-2]}}
  case "$before" in
    --mode) COMPREPLY=($(compgen -W "{modes}" -- "$word")); return ;;
    --config)
      COMPREPLY=($(compgen -f -X '!*.py' -- "$word") $(compgen -d -S / -- "$word"))
      return ;;
    --*) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  case "$word" in
    --config.*) COMPREPLY=($(compgen -W "{fields}" -- "$word")) ;;
    -*) COMPREPLY=($(compgen -W "{flags}" -- "$word")) ;;
    *)
      if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{modes}" -- "$word"))
      else
        COMPREPLY=($(compgen -f -- "$word"))
      fi
      ;;
  esac
  compopt -o nospace 2>/dev/null
}}
complete -F _cifar_jax cifar-jax
"""


def script(modes: Sequence[str], flags: Sequence[str], fields: Sequence[str]) -> str:
  """Return a script for bash and zsh.

  Args:
    modes: the modes, which are subcommands too.
    flags: the flags as they are typed, such as '--tta=' or '--json'.
    fields: the full names of the config's fields.
  """
  return _SCRIPT.format(
    modes=" ".join(modes),
    flags=" ".join(flags),
    fields=" ".join(f"--config.{field}=" for field in fields),
  )
