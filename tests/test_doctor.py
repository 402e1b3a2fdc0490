from jepa import doctor
from jepa.data.manifest import RootConfig
from jepa.doctor import DoctorConfig


def test_every_part_is_examined_and_the_working_ones_really_work(capsys):
    findings = {finding.part: finding for finding in doctor.run(DoctorConfig())}
    assert findings["PyTorch"].works
    assert findings["PyAV"].works
    assert "decodes H.264" in findings["PyAV"].detail
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
