from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa import doctor
from jepa.config import COMMANDS
from jepa.data.manifest import RootConfig
from jepa.doctor import DoctorConfig
from jepa.errors import install_command


def test_every_part_is_examined_and_the_working_ones_really_work(capsys):
    findings = {finding.part: finding for finding in doctor.run(DoctorConfig())}
    assert findings["PyTorch"].works
    assert findings["decoder PyAV"].works
    assert "decodes H.264" in findings["decoder PyAV"].detail
    assert "PyAV" in capsys.readouterr().out


def test_a_broken_reader_is_a_finding_with_a_remedy():
    def fail():
        raise OSError("libavutil.so.99: cannot open shared object file\nmore")

    finding = doctor._reader("torchcodec", fail, "av")
    assert finding.works is False
    assert "libavutil.so.99" in finding.detail
    assert "\n" not in finding.detail
    assert finding.remedy


def test_an_absent_part_names_the_command_that_installs_it():
    finding = doctor._reader("decord", lambda: 0, "no-such-distribution")
    assert finding.works is None
    assert finding.remedy == "pip install no-such-distribution"


def test_a_data_set_is_read_and_reported_on(video_folder, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted(video_folder.glob("*.mp4"))[:2]:
        (folder / path.name).symlink_to(path)
    (folder / "bad.mp4").write_bytes(b"not a video")
    doctor.run(DoctorConfig(data=RootConfig(str(folder)), out=str(tmp_path / "scan.jsonl"), workers=1))
    report = (tmp_path / "scan.jsonl").read_text().splitlines()
    assert len(report) == 3
    assert "bad.mp4" in report[0]
    assert "3 files, 1 of them unreadable" in capsys.readouterr().out


def test_every_extra_of_the_package_is_examined():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = set(declared["optional-dependencies"]) - {
        "all",
        "dev",
        "docs",
        "decord",
        "fast-video",
    }  # examined as decoders
    assert set(doctor._EXTRAS) == extras
    assert {command.extra for command in COMMANDS.values()} <= extras


def test_an_absent_extra_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(doctor._EXTRAS, "viz", ("figures", ["no_such_module"]))
    (finding,) = [finding for finding in doctor.examine() if finding.part == "extra viz"]
    assert finding.works is None
    assert finding.remedy == install_command("viz")
    assert "no_such_module" in finding.detail


def test_the_printed_remedy_keeps_its_brackets(monkeypatch, capsys):
    monkeypatch.setitem(doctor._EXTRAS, "viz", ("figures", ["no_such_module"]))
    doctor.run(DoctorConfig())
    assert f"extra viz: {install_command('viz')}\n" in capsys.readouterr().out


def test_every_packaged_detector_has_a_line_and_an_absent_one_its_remedy(monkeypatch):
    pytest.importorskip("pydantic")
    from jepa.signals.detect.registry import PACKAGED

    monkeypatch.setitem(PACKAGED, "speech", PACKAGED["speech"]._replace(modules=("no_such_module", "av")))
    findings = {finding.part: finding for finding in doctor.examine()}
    assert {f"detector {kind}" for kind in PACKAGED} <= set(findings)
    assert findings["detector loudness"].works and not findings["detector loudness"].remedy
    absent = findings["detector speech"]
    assert absent.works is None and absent.remedy.endswith(install_command("detectors"))


def test_the_remedy_fits_the_way_of_installation(monkeypatch, tmp_path):
    """From a checkout, from a folder or repository, or from an index."""
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    assert install_command("viz") == "pip install -e '.[viz]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("viz") == f"pip install -e '{root}[viz]'"
    monkeypatch.setattr("jepa.errors.__file__", str(tmp_path / "site-packages/jepa/errors.py"))
    for stated, where in (
        (None, ""),
        ('{"url": "file:///src/jepa"}', " @ file:///src/jepa"),
        ('{"url": "https://host/jepa", "vcs_info": {"vcs": "git"}}', " @ git+https://host/jepa"),
    ):
        found = SimpleNamespace(read_text=lambda name, stated=stated: stated)
        monkeypatch.setattr("importlib.metadata.distribution", lambda name, found=found: found)
        assert install_command("viz") == f"pip install 'jepa-video[viz]{where}'"


def test_another_distribution_of_the_same_import_name_is_named(monkeypatch):
    import importlib.metadata
    from types import SimpleNamespace

    real = importlib.metadata.distribution
    other = SimpleNamespace(version="0.0.9")
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: other if name == "jepa" else real(name)
    )
    (finding,) = doctor._import_name()
    assert finding.works is False
    assert "jepa 0.0.9 is another project" in finding.detail
    assert finding.detail.count(". ") == 0
