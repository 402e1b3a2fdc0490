"""A page that is safe to open and fetches nothing from the network, with annotations in lanes of their own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jepa.signals.command import SignalsConfig, run

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(folder_of: Any, video: Path, tmp_path: Path) -> Path:
    return folder_of(video, tmp_path / "out")


def annotate(path: Path, video: Path) -> Path:
    rows = [(2.1, "", "hazard", "red"), (0.5, 2.0, "scene", EVIL), (6.1, "", "good_break", "calm")]
    lines = [f"{video},{start},{end},{kind},{label}" for start, end, kind, label in rows]
    path.write_text("\n".join(["path,start_s,end_s,kind,label", *lines]) + "\n")
    return path


class Page(HTMLParser):
    """Collects tags, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = tag == "script" and dict(attrs).get("type") != "application/json"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts.append(data)
            self._script = False


def test_the_page_loads_nothing_and_runs_one_named_script(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.fetched and all(re.match(r"data:(image/jpeg;base64,|,?$)|#", link) for link in page.fetched)
    assert page.handlers == [] and not {"iframe", "object", "embed", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    (script,) = page.scripts
    stamp = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert f"script-src 'sha256-{stamp}'" in policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy[1].replace("&#39;", "'")
    assert "http://" not in text and "https://" not in text


def test_hostile_names_and_labels_are_text(
    detector: Any, folder_of: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """A script in a file name, a label, a policy's reason or an annotation stays text in the page."""
    label = f"{EVIL}\" onload='x"
    now, ahead = detector.metadata.heads
    evil = type(detector)(
        now.model_copy(update={"labels": [label, "bright"]}),
        ahead.model_copy(update={"labels": [label], "base_rates": {}}),
    )
    policy_file.write_text(policy_file.read_text().replace("Red ahead.", f"'{EVIL}'"))
    colours = [(20, 20, 20)] * 12 + [(20, 220, 20)] * 8 + [(220, 20, 20)] * 9
    video = make_video("a <img src=x onerror=alert(1)>.mp4", colours)
    marks = annotate(tmp_path / "marks.csv", video)
    folder = folder_of(video, tmp_path / "evil", [evil], annotations=str(marks))
    assert re.fullmatch(r"[A-Za-z0-9-]+", folder.name)
    page = Page((folder / "report.html").read_text())
    assert len(page.scripts) == 1 and page.handlers == []
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    ElementTree.fromstring((folder / "breaks.vmap.xml").read_text())


def test_annotations_are_drawn_in_lanes_of_their_own_and_change_no_document(
    folder_of: Any, folder: Path, video: Path, tmp_path: Path
) -> None:
    marks = annotate(tmp_path / "marks.csv", video)
    annotated = folder_of(video, tmp_path / "annotated", annotations=str(marks))
    text = (annotated / "report.html").read_text()
    assert "annotated hazard: red" in text and "annotated good_break: calm" in text
    assert "annotated: red starts" in text  # in the lane of the label
    assert "annotated scene: &lt;script&gt;" in text and "not part of the document" in text
    assert "Annotated" not in (folder / "report.html").read_text()
    for name in ("signals.json", "openrtb.json", "breaks.vmap.xml", "timeline.csv"):
        assert (annotated / name).read_bytes() == (folder / name).read_bytes()


def test_the_page_says_what_was_found_what_was_not_looked_for_and_why_a_break_was_offered(
    folder_of: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    document = folder_of(video, tmp_path / "live", causal=False)
    text = (document / "report.html").read_text()
    for heading in ("Found", "Breaks", "Not looked for"):
        assert f"<h2>{heading}</h2>" in text
    assert re.search(r"<b>red</b>, up to\s*<span[^>]*>\d+", text)
    assert "For it: a cut to the next shot" in text and "visual_change</td>" not in text
    assert "Sound was not assessed" in text and "brand-safety categories" in text
    assert "1 frames" not in text and "1 shots" not in text


def test_a_page_without_any_detector_calls_nothing_safe(
    policy_file: Path, video: Path, tmp_path: Path
) -> None:
    config = SignalsConfig(video=str(video), detectors=[], out=str(tmp_path / "out"))
    run(config)
    (path,) = (tmp_path / "out").glob("*/report.html")
    text = path.read_text()
    assert "No detector ran" in text and "No risk" not in text
    assert "No detector here forecasts" in text and "11 of 11 brand-safety categories" in text


def test_nothing_is_looked_up_beside_a_video(
    folder_of: Any, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Only a list that the caller names is drawn, also where a toy world lies around the video."""
    (tmp_path / "videos").mkdir()
    video = make_video("videos/000001.mp4", [(20, 20, 20)] * 8 + [(220, 20, 20)] * 12)
    annotate(tmp_path / "annotations.csv", video)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/000001.json").write_text(
        '{"schema": "jepa.toyworld.truth/1", "hazards": [], "breaks": []}'
    )
    assert "Annotated" not in (folder_of(video, tmp_path / "out") / "report.html").read_text()
