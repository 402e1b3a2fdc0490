"""A page that is safe to open, asks nothing of the network, and draws what the run wrote."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
import yaml

from jepa.cli import main
from jepa.errors import UserError
from jepa.pretrain import trainer
from jepa.pretrain.logger import Logger, WandbConfig
from jepa.pretrain.report import ReportConfig, read_run, run

EVIL = "</script><script>alert(1)</script><b>"


def write_run(folder, steps=6, **settings):
    """A run folder as the trainer leaves it, written by the journal itself."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"train": {"steps": 600}, **settings}))
    with Logger(folder, 600, 0, WandbConfig(), {}) as journal:
        for k in range(1, steps + 1):
            row = {"loss": 1 / k, "rank": 30.0 - k, "lr": 1e-4 * k, "unexplained": 1.5 / k, EVIL: float(k)}
            row |= {f"unexplained/mask{m}": 1.5 / k + m for m in (0, 1)}
            row |= {f"unexplained/time{s:02d}": 0.1 * s for s in range(4)}
            row |= {f"spectrum/{j}": 0.5**j for j in (1, 2, 3, 4, 6)}
            for s in range(4):
                row |= {f"mask0/context_time{s:02d}": 0.25, f"mask0/target_time{s:02d}": 0.5}
            journal.log(100 * k, row, 16)
        journal.warn(300, f"the rank fell from 210 to 9 {EVIL}")
    return folder


class Page(HTMLParser):
    """Collects what a browser would fetch, run or draw."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.handlers, self.paths, self.policy = [], [], [], [], ""
        self.scripts, self._script = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.tags.append(tag)
        self._script = names.get("type", "run") if tag == "script" else None
        self.fetched += [names[n] for n in ("src", "href", "srcset", "action", "xlink:href") if n in names]
        self.handlers += [name for name in names if name.startswith("on")]
        if "line" in names.get("class", "").split():
            self.paths.append(names["d"])
        if names.get("http-equiv") == "Content-Security-Policy":
            self.policy = names["content"]

    def handle_data(self, data):
        if self._script:
            self.scripts.append((self._script, data))
            self._script = None


def test_the_page_is_self_contained_and_escapes_every_string(tmp_path):
    first = write_run(tmp_path / "a", note=EVIL)
    second = write_run(tmp_path / "b <i>", steps=3)
    out = run(ReportConfig(run=[str(first), str(second)], out=str(tmp_path / "page.html")))
    text = out.read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.fetched) and not page.handlers
    (_, data), (_, script) = page.scripts
    stamp = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in page.policy and f"script-src 'sha256-{stamp}'" in page.policy
    assert EVIL not in text and "<b>alert" not in text and "<i>" not in text
    assert len(re.findall(r"alert\(1\)", text)) >= 3  # in a setting, a column and a warning, as text
    assert json.loads(data)["runs"][1]["name"] == "b <i>"
    assert "http://" not in text and "https://" not in text


def test_the_page_says_where_the_run_stands(tmp_path, capsys):
    folder = write_run(tmp_path / "a")
    assert main(["report", f"run={folder}"]) == 0
    text = (folder / "report.html").read_text()
    assert "Step 600 of 600." in text and "explain 75.0 %" in text and "One warning." in text
    assert 'data-step="300"' in text and "210 to 9" in text
    assert "context 25.0 %, target 50.0 %, neither 25.0 %" in text
    charted = re.findall(r'data-key="([^"]+)"', text)
    assert {"loss", "rank", "lr", "explained", "explained/mask1", "clips_per_s"} <= set(charted)
    assert not any(key.startswith(("spectrum", "mask", "explained/time")) for key in charted)
    assert str(folder / "report.html") in capsys.readouterr().out


def test_a_real_run_can_be_read(tiny):
    folder = trainer.train(tiny("train.steps=4", "masks=[{kind: temporal, ratio: 0.5}]"))
    text = run(ReportConfig(run=str(folder))).read_text()
    charted = set(re.findall(r'data-key="([^"]+)"', text))
    expected = {
        "loss",
        "explained",
        "rank",
        "lidar",
        "target_varies",
        "std_time",
        "grad_norm",
        "lr",
        "ema",
    }
    assert expected <= charted and "Step 4 of 4." in text and "Mask 0: temporal" in text
    assert "Covariance spectrum" in text and "Explained variance per time step" in text


def test_what_the_monitor_says_in_a_run_is_kept_and_shown(tiny):
    folder = trainer.train(
        tiny("train.steps=4", "monitor.least_varies=0.99", "monitor.min_explained=0")
    )  # no targets differ by that much
    (event,) = read_run(folder, "a").events
    assert event["step"] == 2 and "differs between tokens is only" in event["text"]
    assert "One warning." in run(ReportConfig(run=str(folder))).read_text()


def test_columns_of_earlier_versions_are_drawn_under_their_present_names(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    row = {"step": 10, "loss": 1.0, "unexplained": 0.25, "spread_time": 0.5, "guess_varies": 0.1}
    row |= {"unexplained/slot00": 0.4, "mask0/context_slot00": 0.25, "mask0/target_slot00": 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = read_run(folder, "old").rows
    assert found["explained"] == 0.75 and found["explained/time00"] == pytest.approx(0.6)
    assert found["std_time"] == 0.5 and found["prediction_varies"] == 0.1
    text = run(ReportConfig(run=str(folder))).read_text()
    assert "context 25.0 %, target 50.0 %" in text and "explain 75.0 %" in text


def test_curves_hold_the_values_of_their_column(tmp_path):
    folder = write_run(tmp_path / "a")
    (line,) = [read_run(folder, "a").line("explained")]
    assert [step for step, _ in line] == [100, 200, 300, 400, 500, 600]
    assert [value for _, value in line] == pytest.approx([1 - 1.5 / k for k in range(1, 7)])


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 700, "lo')
    assert read_run(folder, "a").rows[-1]["step"] == 600


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        run(ReportConfig(run=str(tmp_path)))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no row yet"):
        run(ReportConfig(run=str(tmp_path)))
    with pytest.raises(UserError, match="at least one"):
        ReportConfig(run=[])


def test_a_resumed_journal_drops_what_comes_again(tmp_path):
    folder = write_run(tmp_path / "a")
    with Logger(folder, 600, 200, WandbConfig(), {}):
        pass
    again = read_run(folder, "a")
    assert again.rows[-1]["step"] == 200 and again.events == []


def test_warnings_reach_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with Logger(tmp_path, 10, 0, WandbConfig(project="x", mode="offline"), {}) as journal:
        alerts = []
        monkeypatch.setattr(journal._wandb, "alert", lambda title, text: alerts.append((title, text)))
        journal.warn(5, "the rank fell")
    assert alerts == [("jepa: warning at step 5", "the rank fell")]
    assert json.loads((tmp_path / "events.jsonl").read_text())["text"] == "the rank fell"
