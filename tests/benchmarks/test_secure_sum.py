"""What a secure sum of 11 million parameters costs: CPU of a site and of the center, bytes, a site that went away."""

import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import pytest

from server.aggregation import WeightedMean
from server.secure_sum import MaskedSum
from shared_model.secure_layout import Layout, Segment
from tests.wards import Ward, digest

pytestmark = pytest.mark.benchmark
PARAMETERS = 11_000_000


@pytest.mark.parametrize("sites", [4, 10])
def test_the_cost_of_a_secure_sum(sites: int) -> None:
    update = np.random.default_rng(0).normal(0.0, 1e-3, PARAMETERS).astype(np.float32)
    layout = Layout((Segment("update", PARAMETERS, 1e3 * 2**20, weighted=True),), sites)
    with tempfile.TemporaryDirectory() as folder:
        ward = Ward(Path(folder), sites)
        names = tuple(ward.sites)
        session = ward.session()
        masked = MaskedSum(session, digest(session), PARAMETERS)
        packing, masking, adding = [], [], []
        for name in names[:-1]:  # the last one goes away
            started = process_time()
            ward.numbers[name] = layout.pack({"update": update}, weight=100)
            packing.append(process_time() - started)
            started = process_time()
            words, masks = ward.upload(name, session)
            masking.append(process_time() - started)
            started = process_time()
            masked.add(name, words, masks)
            adding.append(process_time() - started)
        ward.confirm(masked, names[:-1])
        for name in names[:-1]:
            ward.release(masked, name)
        started = process_time()
        opened = masked.open()
        opening = process_time() - started
        assert np.allclose(layout.unpack(opened)["update"] / (100 * (sites - 1)), update, rtol=0, atol=1e-9)
    started = process_time()
    mean = WeightedMean(PARAMETERS)
    for name in names[:-1]:
        mean.add(name, update, weight=100)
    clear = process_time() - started
    letters = sum(len(letter) for letter in masks.sealed.values()) / 1e3
    print(f"\n{sites} sites, {PARAMETERS / 1e6:.0f} million parameters, one site went away:")
    print(f"  a site: {np.median(packing):.2f} s to fixed point, {np.median(masking):.2f} s masks")
    print(f"  center: {sum(adding):.2f} s to add, {opening:.2f} s to take off masks; in the clear {clear:.2f} s to add")
    print(f"  upload: {words.nbytes / 1e6:.0f} MB and {letters:.1f} kB of shares; in the clear {update.nbytes / 1e6:.0f} MB")
