"""Bounds of an export, each missed by a planted row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import InputMissingError
from pipeline.export import images_of
from pipeline.export_table import Row, misses, table

WHOLE = Row(form="pytorch", size_mib=4.0, ms_of_1=1.0, ms_of_64=10.0, difference=0.0, psnr_db=30.0, fcd=2.0)
SMALL = replace(WHOLE, form="int8", size_mib=1.0, ms_of_64=6.0, difference=0.3, fcd=2.05)


def test_what_keeps_its_bounds_misses_nothing():
    assert misses(replace(WHOLE, form="onnx", difference=9e-5), WHOLE) == [] == misses(SMALL, WHOLE)
    assert misses(replace(SMALL, ms_of_1=0.5, ms_of_64=20.0), WHOLE) == []  # at 1 or at 64


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(WHOLE, form="onnx", difference=2e-4), "differs from PyTorch by 0.0002"),
        (replace(WHOLE, form="torch-export", difference=0.5), "differs from PyTorch"),
        (replace(WHOLE, form="student", size_mib=2.0), "is 2.00 times smaller, not 3.0"),
        (replace(WHOLE, form="pruned", size_mib=3.0), "is 1.33 times smaller, not 1.5"),
        (replace(SMALL, size_mib=1.2), "is 3.33 times smaller, not 3.5"),
        (replace(SMALL, ms_of_64=7.0), "is 1.43 times as fast as PyTorch, not 1.5"),
        (replace(SMALL, fcd=2.2), "has an FCD of 2.2, PyTorch's is 2"),
        (replace(SMALL, fcd=None), "has no FCD"),
    ],
)
def test_each_bound_that_is_missed_is_told(row, words):
    (told,) = misses(row, WHOLE)
    assert words in told


def test_table_has_a_line_for_each_form():
    lines = table([WHOLE, replace(SMALL, fcd=None)]).splitlines()
    assert len(lines) == 3 and {len(line) for line in lines} == {len(lines[0])}
    assert lines[1].split() == ["pytorch", "4.00", "1.00", "10.00", "0.0e+00", "30.00", "2"]


def test_export_without_the_images_that_measure_it_says_so(project):
    with pytest.raises(
        InputMissingError, match=r"processed/train is missing, by which an export is .* measured: `make run` first"
    ):
        images_of(project.paths)
