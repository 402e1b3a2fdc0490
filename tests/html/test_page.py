"""The scaffold of every report: escaped, self-contained, with one script that the policy names by its hash."""

import base64
import hashlib
import re

import jinja2
import pytest

from jepa.html import COLOURS, data_url, render_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def page(**values):
    return render_page("jepa.html", "message", "train", **{"title": "a page", "message": "nothing", **values})


def test_every_value_is_escaped():
    text = page(title=EVIL, message=EVIL)
    assert EVIL not in text and "<img" not in text and text.count("&lt;img src=x") == 3


def test_one_script_runs_and_the_policy_names_it():
    text = page()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "form-action 'none'" in policy


def test_nothing_is_loaded_from_outside():
    text = page()
    links = re.findall(r"(?:src|href|srcset|action)=[\"']([^\"']*)", text)
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text


def test_a_template_that_reads_an_unknown_name_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="message"):
        render_page("jepa.html", "message", "train", title="a page")


def test_light_and_dark_palettes_define_the_same_variables():
    style = page().partition("<style>")[2].partition("</style>")[0]
    light, dark_by_system, dark_by_choice = re.findall(r":root[^{]*\{([^}]*)\}", style)
    names = [set(re.findall(r"--[a-z]+(?=:)", block)) for block in (light, dark_by_system, dark_by_choice)]
    assert names[0] == names[1] == names[2]
    assert dark_by_system.replace("\n", "") == dark_by_choice.replace("\n", "")


def test_pictures_are_held_in_the_page():
    assert data_url(None) is None
    assert base64.b64decode(data_url(b"jpeg").partition(",")[2]) == b"jpeg"


def test_colours_are_distinct():
    assert len(set(COLOURS)) == len(COLOURS) >= 8
