"""Choices, recipes and overrides, on a small configuration of the test's own."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from jepa.cli import main
from jepa.config import COMMANDS, chosen_classes, compose_config, config_class, to_dataclass, to_yaml
from jepa.errors import UserError, require
from jepa.fields import describe_keys, find_field, from_dict, is_path, to_dict


@dataclass
class Near:
    radius: float = 1.0
    """how far"""


@dataclass
class Far:
    limit: int = 3
    """how many"""


RULES = {"near": Near, "far": Far}


@dataclass
class Inner:
    lr: float = 0.1
    """learning rate"""
    tag: str = "a"
    """a word"""


@dataclass
class Config:
    out: str = field(default="???", metadata={"path": True})
    """folder"""
    words: list[str] = field(default_factory=list)
    """several words"""
    optim: Inner = field(default_factory=Inner)
    rule: Any = field(default_factory=Near, metadata={"choices": lambda: RULES})
    """which rule"""
    extra: dict[str, float] = field(default_factory=dict)
    """named numbers"""


def composed(*overrides, **options):
    return to_dataclass("pretrain", compose_config("pretrain", Config, ["out=o", *overrides], **options))


def test_a_choice_is_picked_by_name_and_its_keys_are_set():
    assert composed().rule == Near()
    assert composed("rule=far", "rule.limit=5").rule == Far(5)
    assert composed("rule.limit=5", "rule=far").rule == Far(5)


def test_a_choice_registered_from_outside_is_offered():
    @dataclass
    class Odd:
        step: int = 2

    RULES["odd"] = Odd
    try:
        assert composed("rule=odd", "rule.step=4").rule == Odd(4)
    finally:
        del RULES["odd"]


def test_help_lists_the_choices_and_the_keys_of_the_chosen_one():
    rows = {key: (default, meaning) for key, default, meaning in describe_keys(Config)}
    assert rows["rule"] == ("near", "which rule; one of near, far")
    assert "rule.radius" in rows
    chosen = chosen_classes(Config, ["rule=far"])
    assert "rule.limit" in [key for key, _, _ in describe_keys(Config, chosen=chosen)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rule=fra", "Did you mean far"),
        ("rule.radios=2", "Did you mean rule.radius"),
        ("rule.limit=2", "only with rule=far"),
        ("+optim.lrr=3", "Did you mean optim.lr"),
        ("+optim.lr=3", "write optim.lr=3"),
        ("~optim.lrr", "Did you mean optim.lr"),
        ("train.lr=3", "Did you mean optim.lr"),
        ("optim.lr=1,2", "--multirun"),
        ("optim.lr=high", "optim.lr"),
        ("out=", "out= is empty"),
        ("recipe=none_such", "The recipes are"),
        ("recipe=none_such.yaml", "no such file"),
    ],
)
def test_mistakes_are_refused_with_the_remedy(override, words):
    with pytest.raises(UserError, match=r".*") as caught:
        composed(override)
    assert words in str(caught.value)


def test_plus_adds_to_a_dict_and_two_pluses_set_either():
    assert composed("+extra.a=1").extra == {"a": 1.0}
    assert composed("++optim.lr=3").optim.lr == 3.0


@pytest.mark.parametrize(
    "text", ["2026_11_28", "1.10", "null", "a=b,c", "it's #1 [x] {y} (z); & ~", "Café", "${x}"]
)
def test_a_path_is_taken_literally(text):
    assert composed(f"out={text}").out == text


@pytest.mark.parametrize("text", ["2026_11_28", "1.10", "true", "1e3"])
def test_strings_stay_strings(text):
    assert composed(f"optim.tag={text}").optim.tag == text
    assert composed(f"words=[{text},b]").words == [text, "b"]
    assert composed(f"optim.tag='{text}'").optim.tag == text


def test_the_saved_form_names_the_choice_and_comes_back():
    config = composed("rule=far", "rule.limit=7")
    saved = to_dict(config)
    assert saved["rule"] == {"name": "far", "limit": 7}
    assert from_dict(Config, saved) == config
    with pytest.raises(UserError, match=r"Did you mean rule\.limit"):
        from_dict(Config, {**saved, "rule": {"name": "far", "limits": 7}})


def test_the_printed_configuration_is_a_recipe(tmp_path):
    config = compose_config("pretrain", Config, ["out=o", "rule=far", "rule.limit=7", "optim.lr=0.5"])
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(Config, config))
    assert yaml.safe_load(path.read_text())["rule"]["name"] == "far"
    assert composed(f"recipe={path}").rule == Far(7)
    assert composed("recipe=mine", config_dir=str(tmp_path)).optim.lr == 0.5
    assert composed(f"recipe={path}", "~optim.lr").optim.lr == 0.1
    assert composed(f"recipe={path}", "rule=near").rule == Near()


def test_recipes_of_ones_own_may_build_on_one_another(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {lr: 0.5, tag: z}\n")
    (tmp_path / "mine.yaml").write_text("defaults: [base, _self_]\noptim: {lr: 0.25}\n")
    config = composed("recipe=mine", config_dir=str(tmp_path))
    assert (config.optim.lr, config.optim.tag) == (0.25, "z")
    (tmp_path / "odd.yaml").write_text("optim: {lrr: 0.5}\n")
    with pytest.raises(UserError, match=r"Did you mean optim\.lr"):
        composed("recipe=odd", config_dir=str(tmp_path))


def test_a_missing_dependency_names_the_extra_that_brings_it():
    with pytest.raises(UserError, match=r"pip install .*\[probes\]'"):
        require("no_such_module.inner", "probes")
    assert require("json", "probes").__name__ == "json"


# What names a file or folder, in whatever command.
PATHS = {"out", "run", "root", "video", "videos_from", "encoder", "probes", "policy", "annotations", "cache"}
PATHS |= {"path", "init_from", "image_model", "weights_from", "reference", "markdown", "target_encoder_from"}


@pytest.mark.parametrize("name", COMMANDS)
def test_keys_that_name_files_are_marked_as_paths(name):
    cls = config_class(COMMANDS[name])
    for key, _, _ in describe_keys(cls):
        if key.rpartition(".")[2] in PATHS:
            found = find_field(cls, key, {})
            assert found is not None and is_path(found[1]), f"{name} {key} is no path_key(...)"


NAMES = [
    "Café.mp4",
    "a=b.mp4",
    "a,b.mp4",
    "(1) it's #2 [x] {y}.mp4",
    "~x & y; z.mp4",
    "-dash.mp4",
    " two  spaces.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_file_is_found_whatever_its_name(name, video_folder, tmp_path, capsys):
    folder = tmp_path / "it's, [odd]=folder"
    folder.mkdir()
    (folder / name).write_bytes((video_folder / "00.mp4").read_bytes())
    out = tmp_path / "2026_11_28"
    assert main(["doctor", f"data.root={folder}", f"out={out}", "workers=1"]) == 0
    assert name in out.read_text(encoding="utf-8") or "Caf" in out.read_text(encoding="utf-8")
