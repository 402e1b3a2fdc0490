"""Lazy names: each package lists its names once, and type checkers see their types."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["jepa", "jepa.data", "jepa.pretrain", "jepa.probes", "jepa.signals"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_loads(name):
    package = importlib.import_module(name)
    assert package.__all__
    for attribute in package.__all__:
        try:
            assert getattr(package, attribute) is not None
        except ModuleNotFoundError as error:  # an extra that is not installed here
            assert error.name.partition(".")[0] != "jepa"
        assert attribute in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.slow
def test_a_strict_type_checker_sees_the_types(tmp_path):
    pytest.importorskip("mypy")
    file = tmp_path / "user.py"
    file.write_text(
        "import jepa\n"
        "encoder = jepa.load_encoder('a')\n"
        "reveal_type(encoder)\n"
        "reveal_type(jepa.embed(encoder, 'videos/'))\n"
        "reveal_type(jepa.signals.analyse)\n"
        "jepa.load_encodr('a')\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "jepa.models.base.Encoder"' in result.stdout, result.stdout
    assert "ndarray" in result.stdout
    assert "SignalsDocument" in result.stdout
    assert 'Module has no attribute "load_encodr"' in result.stdout
    assert result.stdout.count("error:") == 1, result.stdout
