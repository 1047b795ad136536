"""Claims about naming detectors, those of other packages included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tocsin_detectors import DetectorError, Mahalanobis
from tocsin_detectors.registry import BUILT_IN, find, names, parse


def test_every_built_in_name_finds_its_detector() -> None:
    for name in BUILT_IN:
        assert find(name).name == name
        assert find(name).source


def test_a_spec_names_a_detector_and_may_name_its_signal() -> None:
    assert parse("mahalanobis").reads == ("embedding",)
    other = parse("mahalanobis:hidden")
    assert isinstance(other, Mahalanobis) and other.reads == ("hidden",)
    with pytest.raises(DetectorError, match="there is no detector 'magic'; there is abstain_mass, ace"):
        parse("magic")


@pytest.mark.long
def test_another_packages_detector_is_found_fitted_and_scored(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(
        '''
import numpy as np
import spox.opset.ai.onnx.v18 as op


class Largest:
    """max_d x_d."""

    name, source = "largest", "a test"

    def __init__(self, signal="embedding"):
        self.reads = (signal,)

    def fit(self, safe, *, seed=0):
        return self

    def graph(self, x):
        return op.reduce_max(x, op.const(np.array([1])), keepdims=1)
'''
    )
    metadata = tmp_path / "outside-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tocsin.detectors]\nlargest = outside:Largest\n")
    program = (
        "import numpy as np\n"
        "from tocsin_detectors import Observations, compile\n"
        "from tocsin_detectors.registry import names, parse\n"
        "assert 'largest' in names()\n"
        "scorer = compile([parse('largest')], fit_on=Observations({'embedding': np.eye(3)}))\n"
        "print(scorer.detectors, scorer.run({'embedding': np.array([[1, 5, 2]], np.float32)}).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "('largest',) [[5.0]]", done.stderr
    assert "largest" not in names()


def test_every_detector_has_its_line_in_the_docs_and_the_other_way_round() -> None:
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(lines) == set(BUILT_IN)
    for name in BUILT_IN:
        detector = find(name)()
        columns = [part.strip("`* ") for part in lines[name].split("|")[2].split(",")]
        assert columns == [*detector.reads, *getattr(detector, "fits_on", ())]


def test_a_spec_may_change_settings() -> None:
    detector = parse("knn:hidden,k=5,bank=50")
    assert (detector.reads, detector.k, detector.bank) == (("hidden",), 5, 50)  # type: ignore[attr-defined]
    assert parse("vim:a+b").reads == ("a", "b")
    assert parse("ace,per_dimension=true,factor=0.1").per_dimension is True  # type: ignore[attr-defined]
    for spec, message in (
        ("knn,neighbours=5", r"has no setting 'neighbours' \(it has: k, bank\)"),
        ("knn,k=five", "k is a number, true or false, not 'five'"),
        ("entropy:a+b", "too many positional arguments"),
    ):
        with pytest.raises(DetectorError, match=message):
            parse(spec)


def test_names_are_found_without_torch() -> None:
    program = (
        "import sys; import tocsin_detectors; "
        "print(*(name for name in ('torch', 'onnx', 'spox', 'sklearn') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
