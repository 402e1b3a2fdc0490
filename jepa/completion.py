"""Shell completion: `jepa --completion bash` prints what the shell needs; it asks `jepa --complete WORD ...` each time.

eval "$(jepa --completion bash)"          # in ~/.bashrc, or zsh in ~/.zshrc
jepa --completion fish | source           # in ~/.config/fish/config.fish
"""

from __future__ import annotations

from jepa.config import COMMANDS, recipes
from jepa.errors import UserError
from jepa.static_keys import UnsettledError, static_keys

_FLAGS = ["--help", "--cfg", "--multirun", "--config-dir", "--quiet", "--verbose"]
# The last word may hold an = and a path, which the shell completes by itself when nothing is offered.
_SCRIPTS = {
    "bash": """_jepa() {
  local line="${COMP_LINE:0:COMP_POINT}" words
  read -ra words <<< "$line"
  [[ "$line" == *" " ]] && words+=("")
  local last="${words[-1]}"
  mapfile -t COMPREPLY < <(jepa --complete "${words[@]:1}" 2>/dev/null)
  if [[ "$last" == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${last%%=*}="}"); fi
  if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _jepa jepa""",
    "zsh": """_jepa() {
  local -a found
  found=("${(@f)$(jepa --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  found=(${found:#})
  if (( $#found )); then compadd -S '' -- $found; else _files; fi
}
compdef _jepa jepa""",
    "fish": """complete -c jepa -a '(jepa --complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'""",
}


def script(shell: str) -> str:
    """What a shell evaluates to complete `jepa`.

    Raises:
        UserError: the shell is none of bash, zsh and fish.
    """
    if shell not in _SCRIPTS:
        raise UserError(f"There is no completion for {shell!r}; choose {', '.join(_SCRIPTS)}.")
    return _SCRIPTS[shell]


def complete(words: list[str]) -> list[str]:
    """What may stand for the last of the words after `jepa`.

    Example:
        >>> complete(["pret"])
        ['pretrain']
        >>> complete(["pretrain", "train.ste"])
        ['train.steps=']
    """
    last = words[-1] if words else ""
    if len(words) < 2:
        offered = [*COMMANDS, "--help", "--version"]
    elif words[0] not in COMMANDS:
        offered = []
    elif last.startswith("-"):
        offered = _FLAGS
    elif last.startswith("recipe="):
        offered = [f"recipe={name}" for name in recipes(words[0])]
    else:
        command = COMMANDS[words[0]]
        try:
            offered = [f"{key.name}=" for key in static_keys(command.module, command.config)]
        except UnsettledError:
            offered = []
        offered += ["recipe="] if recipes(words[0]) else []
    return [text for text in offered if text.startswith(last)]
