"""Exports that other systems can read, and a page that is safe to open and asks nothing of the network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jepa.errors import UserError
from jepa.signals import analyse as pipeline
from jepa.signals import export as exports
from jepa.signals.document.hash_chain import read_document
from jepa.signals.document.schema import SignalsDocument
from jepa.signals.policy import read_policy

EVIL = "<script>alert(1)</script>"
TRUTH = {
    "schema": "jepa.toyworld.truth/1",
    "hazards": [{"onset_s": 2.1, "category": EVIL, "iab": "I4GWl6", "severity": 2}],
    "segments": [{"start_s": 0.5, "end_s": 2.0, "verb": "walk", "noun": EVIL, "captions": []}],
    "breaks": [
        {"time_s": 1.5, "good": False, "reason": EVIL},
        {"time_s": 6.1, "good": True, "reason": "calm"},
    ],
}


def process(scorer: Any, policy_file: Path, video: Path, out: Path, **more: Any) -> Path:
    config = pipeline.SignalsConfig(str(video), "none", str(policy_file), str(out), stride_ms=100, **more)
    pipeline.process(config, [video], read_policy(policy_file), scorer)
    return next(out.glob("*/signals.json")).parent


@pytest.fixture
def folder(scorer: Any, policy_file: Path, video: Path, tmp_path: Path) -> Path:
    return process(scorer, policy_file, video, tmp_path / "out")


@pytest.fixture
def document(folder: Path) -> SignalsDocument:
    return read_document(folder / "signals.json")


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


def test_openrtb_carries_allowed_breaks_only(document: SignalsDocument) -> None:
    requests = exports.openrtb(document)
    allowed = [item for item in document.ads.breaks if item.verdict == "allow"]
    assert len(requests) == len(allowed) == 1
    video, content = requests[0]["imp"][0]["video"], requests[0]["site"]["content"]
    assert video["startdelay"] == round(allowed[0].at_ms / 1000) and video["plcmt"] == 1
    assert content["cattax"] == 9 and content["len"] == 9
    assert content["data"][0]["ext"]["segtax"] == 9 and content["data"][0]["ext"]["jepa"]["side"] == "before"
    assert all(isinstance(item["value"], str) for item in content["data"][0]["segment"])
    assert len(content["data"]) == 1  # a causal document has not seen what comes after


def test_vmap_is_schema_like_and_leaves_held_breaks_out(document: SignalsDocument) -> None:
    root = ElementTree.fromstring(exports.vmap(document))
    space = "{http://www.iab.net/videosuite/vmap}"
    assert root.tag == f"{space}VMAP" and root.attrib == {"version": "1.0"}
    (node,) = root
    assert node.tag == f"{space}AdBreak"
    assert node.attrib == {"timeOffset": "00:00:06.100", "breakType": "linear", "breakId": "b5"}
    assert {child.tag for child in node} <= {
        f"{space}AdSource",
        f"{space}TrackingEvents",
        f"{space}Extensions",
    }


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "00:00:00.000"), (66_130, "00:01:06.130"), (36_000_999, "10:00:00.999")]
)
def test_clock(milliseconds: int, text: str) -> None:
    assert exports.clock(milliseconds) == text


def test_table_holds_everything_with_a_time(document: SignalsDocument) -> None:
    rows = list(csv.DictReader(io.StringIO(exports.table(document))))
    kinds = {
        kind: sum(row["kind"] == kind for row in rows)
        for kind in ("shot", "observed", "anticipated", "break")
    }
    assert kinds == {"shot": 7, "observed": 1, "anticipated": 3, "break": 6}
    assert [int(row["start_ms"]) for row in rows] == sorted(int(row["start_ms"]) for row in rows)
    assert exports._cell("=1+1") == "'=1+1" and exports._cell("calm") == "calm"


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
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """A script in a file name, a label, a policy's reason or a truth file stays text in the page."""
    label = f"{EVIL}\" onload='x"

    class Evil(type(scorer)):  # type: ignore[misc]
        observed = tuple(type(s)(s.probe, label) for s in scorer.observed[:1]) + scorer.observed[1:]
        tags = observed
        anticipated = (type(scorer.anticipated[0])("foresee", label),)
        probes = tuple(p.model_copy(update={"labels": [label, *p.labels]}) for p in scorer.probes)

    policy_file.write_text(policy_file.read_text().replace("Red ahead.", f"'{EVIL}'"))
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(TRUTH))
    video = make_video(
        "a <img src=x onerror=alert(1)>.mp4", [(20, 20, 20)] * 12 + [(20, 220, 20)] * 8 + [(220, 20, 20)] * 9
    )
    folder = process(Evil(), policy_file, video, tmp_path / "evil", truth=str(truth))
    assert re.fullmatch(r"[A-Za-z0-9-]+", folder.name)
    page = Page((folder / "report.html").read_text())
    assert len(page.scripts) == 1 and page.handlers == []
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    ElementTree.fromstring((folder / "breaks.vmap.xml").read_text())


def test_truth_is_drawn_beside_the_forecast(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "story.json").write_text(json.dumps(TRUTH))
    folder = process(scorer, policy_file, video, tmp_path / "told", truth=str(tmp_path / "truth"))
    text = (folder / "report.html").read_text()
    assert text.count("truth: a good place") == 1 and text.count("truth: a bad place") == 1
    assert "truth: red starts" in text  # by the category that the policy gives to the label
    assert "truth: walk &lt;script&gt;" in text and "not part of the document" in text
    assert (
        "Truth: risks"
        not in (process(scorer, policy_file, video, tmp_path / "untold") / "report.html").read_text()
    )
    (tmp_path / "truth" / "story.json").write_text("{}")
    with pytest.raises(UserError, match="not a truth file"):
        pipeline.find_truth(str(tmp_path / "truth"), video)
    with pytest.raises(UserError, match=r"gone\.json' does not exist"):
        process(scorer, policy_file, video, tmp_path / "gone", truth=str(tmp_path / "gone.json"))


def test_truth_is_found_where_the_toy_world_puts_it_and_changes_no_document(
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    video = make_video("videos/000001.mp4", [(20, 20, 20)] * 8 + [(220, 20, 20)] * 12)
    before = process(scorer, policy_file, video, tmp_path / "untold")
    (tmp_path / "truth").mkdir()
    for content, drawn in ((TRUTH, True), ({"schema": "somebody else's"}, False)):
        (tmp_path / "truth/000001.json").write_text(json.dumps(content))
        after = process(scorer, policy_file, video, tmp_path / f"told-{drawn}")
        assert ("Truth: risks" in (after / "report.html").read_text()) is drawn
        for name in ("signals.json", "openrtb.json", "breaks.vmap.xml", "timeline.csv"):
            assert (after / name).read_bytes() == (before / name).read_bytes()


def test_names_that_are_not_utf8(
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    import os

    source = make_video("plain.mp4", [(20, 20, 20)] * 10)
    odd = tmp_path / os.fsdecode(b"caf\xe9\n.mp4")
    source.rename(odd)
    folder = process(scorer, policy_file, odd, tmp_path / "odd")
    assert read_document(folder / "signals.json").asset.name == "caf\\xe9\\n.mp4" or "caf" in folder.name


def test_a_video_of_one_frame(
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    folder = process(scorer, policy_file, make_video("one.mp4", [(220, 20, 20)]), tmp_path / "one")
    document = read_document(folder / "signals.json")
    assert document.asset.frames == 1 and document.asset.duration_ms == 100
    assert document.ads.breaks == [] and len(document.tracks.window_end_ms) == 1
    assert [(span.start_ms, span.end_ms) for span in document.observed] == [(0, 100)]
    assert "shorter than one window" in document.notices[0]


def test_memory_does_not_grow_with_the_video(
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Pictures kept for the report stay few however long the video is."""
    from jepa.signals.detect import scan
    from jepa.signals.detect.risks import watch_for

    policy = read_policy(policy_file)

    story = [(20, 20, 20), (20, 200, 20), (220, 20, 20), (10, 10, 230)]
    long = make_video("long.mp4", [story[i // 15 % 4] for i in range(1500)])
    result = scan.scan(long, scorer, policy, watch_for(policy, scorer), 200, 8)
    assert result.duration_ms == 150_000 and len(result.strip) <= scan._STRIP_MOST
    assert len(result.timeline._histograms) <= 64
    # One picture per forecast and one per span, none for heights that were passed.
    assert len(result.evidence) <= len(result.desk.issues) + len(result.desk.trackers[0].runs())


@pytest.mark.slow
def test_an_hour_goes_through_faster_than_it_lasts(
    scorer: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    loop = [(20, 20, 20)] * 60 + [(20, 200, 20)] * 6 + [(220, 20, 20)] * 12 + [(10, 10, 230)] * 42
    video = make_video("hour.mp4", loop * 300)
    config = pipeline.SignalsConfig(
        str(video), "none", str(policy_file), str(tmp_path / "out"), stride_ms=500
    )
    summary = pipeline.process(config, [video], read_policy(policy_file), scorer)
    (path,) = (tmp_path / "out").glob("*/signals.json")
    document = read_document(path)
    assert document.asset.duration_ms == 3_600_000 and len(document.observed) == 300
    assert summary["real_time_factor"] < 1 and set(summary["stage_shares"]) >= {
        "decode",
        "encode",
        "shots",
        "write",
    }
    assert (path.parent / "report.html").stat().st_size < 20_000_000
