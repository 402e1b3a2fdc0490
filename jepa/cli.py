"""The `jepa` command: `jepa COMMAND key=value ...`.

Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked, 143 saved after SIGTERM, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys

from jepa.errors import UserError, VideoError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"jepa: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, VideoError) as error:
        print(f"jepa: the run failed: {error}", file=sys.stderr)
        return 1


def _dispatch(arguments: list[str]) -> int:
    from jepa.config import COMMANDS, compose_config, config_class, to_dataclass, to_yaml

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name == "--version":
        import jepa

        print(f"jepa {jepa.__version__}")
        return 0
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"There is no command {name!r}.{hint} The commands are {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    cls = config_class(command)
    if "--help" in rest or "-h" in rest:
        print(_help(name, rest))
        return 0
    show_only = _take_cfg_flag(rest)
    if command.bare:
        rest = [text if "=" in text or text.startswith("-") else f"{command.bare}={text}" for text in rest]
    flags = [text for text in rest if "=" not in text]
    if flags:
        raise UserError(
            f"`jepa {name}` takes key=value pairs, and {flags[0]!r} is none. Write for example out=FOLDER; "
            f"`jepa {name} --help` lists the keys."
        )
    if command.many:
        rest = _gather(command.many, rest)
    config = compose_config(name, cls, rest)
    if show_only:
        print(to_yaml(cls, config), end="")
        return 0
    getattr(importlib.import_module(command.module), command.function)(to_dataclass(name, config))
    return 0


def _gather(key: str, rest: list[str]) -> list[str]:
    """`run=A run=B` -> `run=[A,B]`: of a key that takes a list, Hydra would quietly keep the last value."""
    given = [text.partition("=")[2] for text in rest if text.startswith(f"{key}=")]
    if len(given) < 2:
        return rest
    return [text for text in rest if not text.startswith(f"{key}=")] + [f"{key}=[{','.join(given)}]"]


def _take_cfg_flag(rest: list[str]) -> bool:
    """Removes `--cfg job` from the arguments and says whether it was there."""
    if "--cfg" not in rest:
        return False
    at = rest.index("--cfg")
    if rest[at + 1 : at + 2] != ["job"]:
        raise UserError("--cfg takes one word, job: `--cfg job` prints the configuration and runs nothing.")
    del rest[at : at + 2]
    return True


def _overview() -> str:
    from jepa.config import COMMANDS

    rows = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return (
        f"usage: jepa COMMAND key=value ...\n\n{rows}\n\n"
        "`jepa COMMAND --help` lists the keys; `--cfg job` prints the resulting configuration and runs nothing."
    )


def _help(name: str, rest: list[str]) -> str:
    from jepa.config import COMMANDS, chosen_classes, config_class, recipes
    from jepa.fields import describe_keys

    cls = config_class(COMMANDS[name])
    rows = list(describe_keys(cls, chosen=chosen_classes(cls, rest)))
    wide = max(
        [len(f"{key}={default}") for key, default, _ in rows if len(f"{key}={default}") < 48], default=0
    )
    lines = [f"usage: jepa {name} key=value ...\n\n{COMMANDS[name].summary}\n"]
    for key, default, meaning in rows:
        lines.append(f"  {f'{key}={default}':<{wide}}  {meaning}")
    if name == "pretrain":
        lines.append(f"\n  {'recipe=NAME':<{wide}}  settings that go together: {', '.join(recipes())}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
