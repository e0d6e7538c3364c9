"""How fast synthetic patients are drawn: patients in a second of one core, of three pictures each.

``make bench`` prints the table; nothing here is asserted.
"""

from time import perf_counter, process_time

import pytest

from client.synthetic import SCANNERS
from client.synthetic.images import View, draw_pictures
from client.synthetic.patients import CaseMix, draw_patients

pytestmark = pytest.mark.benchmark

VIEWS: tuple[View, ...] = ("bmode_transverse", "bmode_longitudinal", "doppler")
COUNT = 48


def test_patients_a_second() -> None:
    patients = draw_patients(COUNT, mix=CaseMix(), seed=1)
    print(f"\n{'scanner':12} {'pixels':>6} {'a second':>9} {'a core-second':>14}")
    for name, scanner in SCANNERS.items():
        wall, core = perf_counter(), process_time()
        for view in VIEWS:
            draw_pictures(patients, view, scanner=scanner, seed=1)
        print(f"{name:12} {scanner.pixels:6} {COUNT / (perf_counter() - wall):9.1f} {COUNT / (process_time() - core):14.1f}")
