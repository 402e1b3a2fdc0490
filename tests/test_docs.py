"""The documentation: links and anchors, code that parses, messages that the library really prints, and the site."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


# Names of files, keys, packages and commands, and numbers.
VALUES = r"\.\.\.|'[^']*'|\bx\.mp4\b|\d+|runs/a|`|pymunk|toyworld|decord|torchcodec|jepa \w+|\w+\.\w+|fell from|\bhas\b"


def text_of(page):
    return page.read_text(encoding="utf-8")


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def anchors_of(page):
    """Anchors as MkDocs makes them of headings."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ +(.*)$", prose, re.MULTILINE):
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_a_title_and_opens_with_what_it_is_for(page):
    lines = [line for line in text_of(page).splitlines() if line.strip()]
    assert lines[0].startswith("# ")
    assert re.match(r"[A-Z`]", lines[1]), lines[1]
    assert not lines[1].startswith("```"), "a sentence comes before the first block"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_exists(page):
    for target, anchor in re.findall(r"\]\(([\w./]*\.md)?#([\w-]+)\)", text_of(page)):
        other = (page.parent / target).resolve() if target else page
        assert anchor in set(anchors_of(other)), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_parses(page):
    for block in python_blocks(page):
        ast.parse(block)


def test_the_first_program_of_the_start_runs():
    exec(compile(python_blocks(ROOT / "docs" / "start.md")[0], "start.md", "exec"), {})


def test_the_messages_of_troubleshooting_are_in_the_code():
    """Each quoted message, without its values, stands in the source."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "jepa").rglob("*.py"))
    # Neighbouring literals are one text, and what stands in braces is a value.
    source = re.sub(r"\"\s*\n?\s*f?\"", "", source)
    page = re.findall(r"\*\*(`.*?`)\*\*", text_of(ROOT / "docs" / "troubleshooting.md"))
    messages = [message for part in page for message in re.findall(r"`([^`]+)`", part)]
    checked = 0
    for message in messages:
        pieces = re.split(VALUES, message)
        pieces = [piece.strip(" :;,()?.") for piece in pieces]
        long = [piece for piece in pieces if len(piece) >= 9]
        checked += len(long)
        for piece in long:
            assert piece in source, (message, piece)
    assert checked >= 15


@pytest.mark.slow
def test_the_site_builds_and_shows_keys_and_docstrings(tmp_path):
    if any(
        importlib.util.find_spec(name) is None for name in ("mkdocs", "mkdocstrings_handlers", "material")
    ):
        pytest.skip("the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "optim.lr" in (tmp_path / "configuration.html").read_text(encoding="utf-8")
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "jepa.models.weights.load.load_encoder" in api
    assert {path.stem for path in PAGES} <= {path.stem for path in tmp_path.glob("*.html")}
