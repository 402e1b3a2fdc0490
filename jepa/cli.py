"""The `jepa` command: `jepa COMMAND key=value ...`, a Hydra application per command.

Results go to stdout; progress, notes and errors to stderr, through `logging`.

Exit codes: 0 done, 1 the run failed, 2 a mistake in the request, 143 saved after SIGTERM, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
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
from jepa.errors import UserError, VideoError, import_name_clash, install_command
from jepa.fields import describe_keys, find_field, unknown_key
from jepa.static_keys import StaticKey, UnsettledError, static_keys

_OVERRIDE = re.compile(r"~[\w.]+$|(\+\+?|~)?[\w./]+=")
_MODULES = "modules"


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
    level: int = logging.WARNING
    """what of the log is shown: --quiet errors only, --verbose everything"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Example:
        >>> main(["--version"])
        jepa 0.1.0
        0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the interpreter would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        print(f"jepa: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "jepa"):
            if (clash := import_name_clash()) is None:
                raise
            print(f"jepa: {clash}", file=sys.stderr)
        else:
            print(f"jepa: {_misses(arguments[0], [missing])}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jepa: stopped by Ctrl-C", file=sys.stderr)
        return 130
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
    if name in ("--completion", "--complete"):
        from jepa import completion

        if name == "--completion":
            print(completion.script(rest[0] if rest else "bash"))
        else:
            print("\n".join(completion.complete(rest)))
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"There is no command {name!r}.{hint} The commands are {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    known = _static_keys(command)
    request = read_arguments(name, command, known, rest)
    if known is not None:
        _refuse_unknown_keys(name, known, request)
    if request.help and known is not None and not any(key.open and not key.default for key in known):
        print(_help(name, [(key.name, key.default, key.meaning) for key in known], request))
        return 0
    missing = [module for module in command.needs if not _is_installed(module)]
    if missing and not request.help:
        raise UserError(_misses(name, missing))
    modules = _import_modules(request)
    cls = config_class(command)
    if request.help:
        print(_help(name, list(describe_keys(cls, chosen=chosen_classes(cls, request.overrides))), request))
        return 0
    with _logging(request.level):
        return _run(name, command, cls, request, modules)


def _run(name: str, command: Command, cls: type, request: Request, modules: list[str]) -> int:
    if request.multirun:
        from jepa import sweep

        overrides, launcher, options = sweep.split_hydra(request.overrides)
        jobs = sweep.plan(name, cls, overrides, main, request.config_dir)
        # Each job may run in a process of its own.
        jobs = [job._replace(overrides=(*job.overrides, *modules)) for job in jobs]
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


@contextlib.contextmanager
def _logging(level: int) -> Iterator[None]:
    """The library's log on stderr, while a command runs."""
    log, handler = logging.getLogger("jepa"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jepa: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _misses(name: str, modules: list[str]) -> str:
    what = f"{', '.join(modules)}, which {'is' if len(modules) == 1 else 'are'} not installed"
    extra = COMMANDS[name].extra if name in COMMANDS else ""
    remedy = install_command(extra) if extra else f"pip install {' '.join(modules)}"
    return f"`jepa {name}` needs {what}{f' (extra {extra})' if extra else ''}: {remedy}"


def _import_modules(request: Request) -> list[str]:
    """Imports the modules that `modules=` names, which register objectives, heads, tasks and detectors of one's own.

    Returns:
        The overrides that name them, which are taken out of the request.

    Raises:
        UserError: there is no such module here.
    """
    given = [text for text in request.overrides if text.lstrip("+").startswith(f"{_MODULES}=")]
    request.overrides = [text for text in request.overrides if text not in given]
    if given and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for text in given:
        for module in filter(None, re.split(r"[\[\],\s]+", text.partition("=")[2])):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or not module.startswith(error.name):
                    raise
                raise UserError(
                    f"{_MODULES}=[{module}]: there is no module {module!r} on Python's path or in this folder. Name it "
                    "as in an import, such as my_package.my_objectives."
                ) from error
    return given


def _static_keys(command: Command) -> list[StaticKey] | None:
    try:
        return static_keys(command.module, command.config)
    except UnsettledError:
        return None  # the classes themselves will tell


def _refuse_unknown_keys(name: str, known: list[StaticKey], request: Request) -> None:
    """Refuses a typo before anything is imported.

    Raises:
        UserError: a key does not exist.
    """
    names = {key.name for key in known} | {"recipe", _MODULES}
    groups = {".".join(key.split(".")[:n]) for key in names for n in range(1, key.count(".") + 1)}
    below = tuple(f"{key.name}." for key in known if key.open)
    for text in request.overrides:
        key = text.partition("=")[0].lstrip("+~")
        hydra = request.multirun and key.partition("/")[0].partition(".")[0] == "hydra"
        if key not in names | groups and not key.startswith(below) and not hydra:
            sentence = unknown_key(key, [one.name for one in known])
            raise UserError(
                sentence.replace("There is", f"`jepa {name}` has", 1)
                + f" `jepa {name} --help` lists the keys."
            )


def read_arguments(
    name: str, command: Command, known: list[StaticKey] | None, arguments: list[str]
) -> Request:
    """Sorts the arguments of a command into flags, overrides and bare words.

    Args:
        name: the command's.
        command: its entry.
        known: its keys, or None where only the dataclass knows them.
        arguments: what follows the command.

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
        elif text in ("-q", "--quiet"):
            request.level = logging.ERROR
        elif text in ("-v", "--verbose"):
            request.level = logging.DEBUG
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
                f"`jepa {name}` has no flag {flag!r}. The flags are --help, --cfg job, --multirun (-m), "
                "--quiet (-q), --verbose (-v) and --config-dir FOLDER; everything else is key=value."
            )
        elif _OVERRIDE.match(text) and not _is_bare_file(command, known, text):
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


def _is_bare_file(command: Command, known: list[StaticKey] | None, text: str) -> bool:
    """Whether `text` is a file with an = in its name, given to a command that takes a bare word."""
    if not command.bare or not Path(text).exists():
        return False
    key = text.partition("=")[0]
    if known is None:
        return find_field(config_class(command), key, {}) is None
    return key not in {one.name for one in known}


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
        "`-m` sweeps over values such as key=1,2; `--config-dir FOLDER` holds recipes of your own;\n"
        "`-q` shows errors only, `-v` the whole log; `modules=[a.b]` imports your own objectives or heads first.\n"
        'Tab completion: eval "$(jepa --completion bash)", or zsh, fish.\n\n'
        "First steps:\n  jepa doctor\n  jepa toyworld out=world\n"
        "  jepa pretrain recipe=small data.root=world/videos out=runs/a\n\n"
        "What a command needs beyond the base install is an extra: pip install 'jepa-video[EXTRA]', with EXTRA one of\n"
        f"{', '.join(sorted({command.extra for command in COMMANDS.values() if command.extra}))}."
    )


def _help(name: str, rows: list[tuple[str, str, str]], request: Request) -> str:
    wide = max(
        [len(f"{key}={default}") for key, default, _ in rows if len(f"{key}={default}") < 48], default=0
    )
    command = COMMANDS[name]
    usage = f"jepa {name} {f'[{command.bare.upper()}] ' if command.bare else ''}key=value ..."
    lines = [f"usage: {usage}\n\n{command.summary}\n\nexample: {command.example}\n"]
    for key, default, meaning in rows:
        lines.append(f"  {f'{key}={default}':<{wide}}  {meaning}")
    lines.append(
        f"\n  {f'{_MODULES}=[]':<{wide}}  modules of your own to import first, for what they register"
    )
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
