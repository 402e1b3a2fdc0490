"""MkDocs hooks of the documentation site: pages about keys and the Python API made from the code, and links.

Nothing of torch is imported: keys come from `jepa.static_keys`, docstrings from griffe.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mkdocs.structure.files import File  # noqa: E402

from jepa.config import COMMANDS, configs_folder, recipes  # noqa: E402
from jepa.static_keys import static_keys  # noqa: E402

# Folders beside docs/ whose pages and pictures the guides link to.
_BESIDE = ("benchmarks",)
_PACKAGES = ("jepa", "jepa.models", "jepa.data", "jepa.pretrain", "jepa.probes", "jepa.signals")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Puts guides that the navigation does not name yet behind those that it names."""
    named = set(re.findall(r"[\w./]+\.md", str(config["nav"])))
    (guides,) = (entry["Guides"] for entry in config["nav"] if "Guides" in entry)
    guides += [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the reports of benchmarks/ to the site."""
    for folder in _BESIDE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".md", ".png", ".svg"):
                name = path.relative_to(ROOT).as_posix()
                files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Writes generated parts, and makes links that leave the site text."""
    if page.file.src_uri == "configuration.md":
        markdown = markdown.replace("<!-- generated: keys -->", _configuration())
    elif page.file.src_uri == "recipes.md":
        markdown = markdown.replace("<!-- generated: recipes -->", _recipes())
    elif page.file.src_uri == "api.md":
        markdown = markdown.replace("<!-- generated: api -->", _api())
    source = Path(page.file.abs_src_path)
    site = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if re.match(r"\w+:", target):
            return match[0]
        found = site.get((source.parent / target).resolve())
        if found is None:  # a file of the repository that is no page
            return text
        upwards = "../" * page.file.src_uri.count("/")
        return f"{picture}[{text}]({upwards}{found}{anchor or ''})"

    # Code blocks stay as they are.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _configuration() -> str:
    lines: list[str] = []
    for name, command in COMMANDS.items():
        lines += [f"## jepa {name}", "", f"{command.summary[:1].upper()}{command.summary[1:]}.", ""]
        lines += ["```", command.example, "```", ""]
        if known := recipes(name):
            lines += [f"Recipes: {', '.join(f'`{recipe}`' for recipe in known)}.", ""]
        lines += ["| key | default | meaning |", "| --- | --- | --- |"]
        for key in static_keys(command.module, command.config):
            default = f"`{_cell(key.default)}`" if key.default else "a choice" if key.open else ""
            lines.append(f"| `{key.name}` | {default} | {_cell(key.meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _recipes() -> str:
    lines: list[str] = []
    for name in recipes("pretrain"):
        text = (configs_folder() / "pretrain" / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
        head, _, keys = text.partition("\ndata:")
        said = [
            line.removeprefix("#").strip() for line in head.splitlines() if not line.startswith("# @package")
        ]
        lines += [
            f"## {name}",
            "",
            "```text",
            *said,
            "```",
            "",
            "```yaml",
            f"data:{keys.rstrip()}",
            "```",
            "",
        ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _api() -> str:
    lines: list[str] = []
    for package in _PACKAGES:
        lines += [f"## {package}", ""]
        for name, home in _names(package):
            lines += [f"::: {home}.{name}", ""]
    return "\n".join(lines)


def _names(package: str) -> list[tuple[str, str]]:
    """(name, module) of a package's public names, without those that are modules themselves."""
    path = ROOT.joinpath(*package.split(".")) / "__init__.py"
    imports = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module not in (package, "__future__", "typing", "jepa.lazy")
    ]
    return sorted((alias.name, str(node.module)) for node in imports for alias in node.names)
