"""The `jepa` command: `jepa COMMAND key=value ...`, a Hydra application per command.

Exit codes: 0 done, 1 the run failed, 2 a mistake in the request, 143 saved after SIGTERM, 130 after Ctrl-C.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from jepa.config import (
    COMMANDS,
    Command,
    chosen_classes,
    compose_config,
    config_class,
    recipes,
    to_dataclass,
    to_yaml,
)
from jepa.errors import UserError, VideoError
from jepa.fields import describe_keys, find_field


@dataclass
class Request:
    """What one command line asks for."""

    overrides: list[str] = field(default_factory=list)
    """Hydra overrides: key=value, +key=value, ++key=value, ~key"""
    words: list[str] = field(default_factory=list)
    """arguments that are no override and no flag"""
    help: bool = False
    show_only: bool = False
    multirun: bool = False
    config_dir: str | None = None


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Example:
        >>> main(["--version"])
        jepa 0.1.0
        0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"jepa: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "jepa"):
            raise
        extra = COMMANDS[arguments[0]].extra
        remedy = f"pip install 'jepa-video[{extra}]'" if extra else f"pip install {missing}"
        print(
            f"jepa: `jepa {arguments[0]}` needs {missing}, which is not installed: {remedy}.", file=sys.stderr
        )
        return 2
    except (RuntimeError, OSError, VideoError) as error:
        print(f"jepa: the run failed: {error}", file=sys.stderr)
        return 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name == "--version":
        import jepa

        print(f"jepa {jepa.__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"There is no command {name!r}.{hint} The commands are {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    cls = config_class(command)
    request = read_arguments(name, command, cls, rest)
    if request.help:
        print(_help(name, cls, request))
        return 0
    if request.multirun:
        from jepa import sweep

        overrides, launcher, options = sweep.split_hydra(request.overrides)
        jobs = sweep.plan(name, cls, overrides, main, request.config_dir)
        if request.show_only:
            print("\n".join(" ".join([f"jepa {name}", *job.overrides]) for job in jobs))
            return 0
        return sweep.launch(jobs, launcher, options)
    config = compose_config(name, cls, request.overrides, request.config_dir)
    if request.show_only:
        print(to_yaml(cls, config), end="")
        return 0
    getattr(importlib.import_module(command.module), command.function)(to_dataclass(name, config))
    return 0


def read_arguments(name: str, command: Command, cls: type, arguments: list[str]) -> Request:
    """Sorts the arguments of a command into flags, overrides and bare words.

    Raises:
        UserError: a flag is unknown or lacks its value, or a word stands where the command takes none.
    """
    request, rest = Request(), list(arguments)
    while rest:
        text = rest.pop(0)
        flag, equals, value = text.partition("=")
        if text in ("-h", "--help"):
            request.help = True
        elif text in ("-m", "--multirun"):
            request.multirun = True
        elif flag in ("--config-dir", "-cd"):
            request.config_dir = value if equals else rest.pop(0) if rest else ""
            if not Path(request.config_dir).is_dir():
                raise UserError(f"--config-dir {request.config_dir}: there is no such folder.")
        elif flag in ("--cfg", "-c"):
            if (value if equals else rest.pop(0) if rest else "") != "job":
                raise UserError(
                    "--cfg takes one word, job: `--cfg job` prints the configuration and runs nothing."
                )
            request.show_only = True
        elif text.startswith("-"):
            raise UserError(
                f"`jepa {name}` has no flag {flag!r}. The flags are --help, --cfg job, --multirun (-m) and "
                "--config-dir FOLDER; everything else is key=value."
            )
        elif re.match(r"~[\w.]+$|(\+\+?|~)?[\w./]+=", text) and not _is_bare_file(command, cls, text):
            request.overrides.append(text)
        elif command.bare:
            # Of two values the last one would win without a word; a shell's *.mp4 gives many.
            if not command.many and any(key.startswith(f"{command.bare}=") for key in request.overrides):
                raise UserError(
                    f"`jepa {name}` takes one {command.bare}, and {text!r} is a second one. Give the folder that "
                    "holds them, or run the command once for each."
                )
            request.overrides.append(f"{command.bare}={text}")
        else:
            raise UserError(
                f"`jepa {name}` takes key=value pairs, and {text!r} is none. Write for example out=FOLDER; "
                f"`jepa {name} --help` lists the keys."
            )
    if command.many:
        request.overrides = _gather(command.many, request.overrides)
    return request


def _is_bare_file(command: Command, cls: type, text: str) -> bool:
    """Whether `text` is a file with an = in its name, given to a command that takes a bare word."""
    known = find_field(cls, text.partition("=")[0], {}) is not None
    return bool(command.bare) and not known and Path(text).exists()


def _gather(key: str, overrides: list[str]) -> list[str]:
    """`run=A run=B` -> `run=[A,B]`: of a key that takes a list, the last value would win without a word."""
    given = [text.partition("=")[2] for text in overrides if text.startswith(f"{key}=")]
    if len(given) < 2:
        return overrides
    quoted = ",".join("'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in given)
    return [text for text in overrides if not text.startswith(f"{key}=")] + [f"{key}=[{quoted}]"]


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return (
        f"usage: jepa COMMAND key=value ...\n\n{rows}\n\n"
        "`jepa COMMAND --help` lists the keys; `--cfg job` prints the resulting configuration and runs nothing;\n"
        "`-m` sweeps over values such as key=1,2; `--config-dir FOLDER` holds recipes of your own.\n"
        "What a command needs beyond the base install is an extra: pip install 'jepa-video[EXTRA]', with EXTRA one of\n"
        f"{', '.join(sorted({command.extra for command in COMMANDS.values() if command.extra}))}."
    )


def _help(name: str, cls: type, request: Request) -> str:
    rows = list(describe_keys(cls, chosen=chosen_classes(cls, request.overrides)))
    wide = max(
        [len(f"{key}={default}") for key, default, _ in rows if len(f"{key}={default}") < 48], default=0
    )
    lines = [f"usage: jepa {name} key=value ...\n\n{COMMANDS[name].summary}\n"]
    for key, default, meaning in rows:
        lines.append(f"  {f'{key}={default}':<{wide}}  {meaning}")
    if known := recipes(name, request.config_dir):
        lines.append(f"\n  {'recipe=NAME':<{wide}}  settings that go together: {', '.join(known)}")
        lines.append(
            f"  {'recipe=FILE.yaml':<{wide}}  settings of your own; defaults: [NAME, _self_] builds on others"
        )
        lines.append(f"  {'~key':<{wide}}  back to the default, whatever the recipe sets")
    return "\n".join(lines)


if __name__ == "__main__":
    from jepa import cli

    sys.exit(cli.main())  # not this module's own: a sweep's processes import it by name
