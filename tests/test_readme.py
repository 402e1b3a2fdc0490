"""What the README and the docs tell people to type exists: commands, keys, recipes, links, Python names."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.config import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """Every `jepa COMMAND ...` line of the code blocks, continuation lines joined, comments dropped."""
    for block in re.findall(
        r"```(?:bash|sh|console)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    ):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:\$ )?(?:torchrun .*-m jepa\.cli|jepa) +(.*)", line.strip()):
                words = shlex.split(match[1], comments=True)
                if words and words[0] in COMMANDS:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_composes(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if any("..." in word or word.isupper() for word in words):
            continue  # a pattern, no command
        assert main([*words, "--cfg", "job"]) == 0, (words, capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_import_works(page):
    for module, names in re.findall(
        r"^from (jepa[\w.]*) import ([\w, ]+)$", page.read_text(encoding="utf-8"), re.M
    ):
        for name in names.split(","):
            assert getattr(importlib.import_module(module), name.strip()), (module, name)


def test_the_readme_is_short():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = re.sub(r"[|`*#]|\]\([^)]*\)", " ", text)
    assert len([word for word in prose.split() if re.search(r"\w", word)]) <= 700
