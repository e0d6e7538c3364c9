"""What is not ultrasound goes before anything else sees it: surround, text, callipers; names in logs and in JSON."""

import json
import logging
import stat

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from client.cli import app
from client.cohort import deidentify
from client.cohort.dicom import Rules, read_frame
from client.cohort.images import Reason, UnusableImageError
from client.cohort.pseudonyms import site_pseudonyms
from client.worker import open_site
from shared_model import messages
from shared_model.errors import FailureCode
from shared_model.messages import DescribeRequest, Message, Task
from tests.dicoms import region, speckle, with_text, write_object

WHOLE = region((0, 0, 319, 239))


def tissue(seed: int = 0) -> np.ndarray:
    return speckle(240, 320, seed=seed)


def test_nothing_outside_the_region_is_kept(tmp_path):
    pixels = with_text(tissue(), "ROE RICHARD", (100, 5))
    path = write_object(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[region((0, 40, 319, 239))])
    np.testing.assert_array_equal(read_frame(path, Rules("declared", "keep")).pixels, pixels[40:])


@pytest.mark.parametrize("size", [12, 16, 24, 32])
@pytest.mark.parametrize("ground", [0, 1])
def test_text_is_painted_over_as_a_block(size, ground):
    plain = tissue() * np.uint8(ground)
    pixels = with_text(plain, "ROE RICHARD", (40, 100), size=size)
    strokes = pixels.astype(int) - plain > 100
    cleaned = deidentify.paint_over(pixels, deidentify.burned_in(pixels, flow=False))
    assert cleaned.max() <= max(int(plain.max()), 1)
    away = np.ones(plain.shape, dtype=bool)
    away[100 - 12 : 100 + 2 * size, 40 - 24 : 40 + 10 * size] = False
    np.testing.assert_array_equal(cleaned[away], plain[away])
    rows, columns = np.nonzero(strokes)
    block = cleaned[rows.min() : rows.max(), columns.min() : columns.max()].astype(float)
    inside = strokes[rows.min() : rows.max(), columns.min() : columns.max()]
    assert abs(block[inside].mean() - block[~inside].mean()) < 4  # the letters cannot be told from what is between them


def test_callipers_are_painted_over_and_the_lesion_stays():
    plain = tissue()
    plain[80:140, 100:200] //= 3
    picture = Image.fromarray(plain)
    draw = ImageDraw.Draw(picture)
    for x, y in ((100, 110), (200, 110)):
        draw.line([(x - 6, y), (x + 6, y)], fill=255, width=2)
        draw.line([(x, y - 6), (x, y + 6)], fill=255, width=2)
    for x in range(106, 196, 6):
        draw.rectangle([x, 110, x + 1, 111], fill=255)
    pixels = np.array(picture)
    cleaned = deidentify.paint_over(pixels, deidentify.burned_in(pixels, flow=False))
    assert cleaned.max() <= plain.max() + 2
    lesion = cleaned[85:135, 105:195].astype(int) - plain[85:135, 105:195]
    assert np.abs(lesion).mean() < 2.5


def test_coloured_graphics_are_found_unless_they_are_flow():
    pixels = np.repeat(tissue()[..., None], 3, axis=2)
    pixels[50:52, 60:200] = (200, 200, 0)
    assert deidentify.burned_in(pixels, flow=False)[50:52, 60:200].all()
    pixels[100:140, 100:160] = (180, 20, 20)
    assert deidentify.shows_flow(pixels)
    assert not deidentify.burned_in(pixels, flow=True)[100:140, 100:160].any()


def test_tissue_is_left_alone():
    """Bright echoes, blurred as a beam blurs them, and speckle hold no graphics."""
    rows, columns = np.mgrid[:240, :320]
    pixels = tissue().astype(float)
    for row, column, down, across in ((60, 80, 1.5, 4.0), (120, 200, 2.5, 2.5), (180, 100, 2.0, 60.0)):
        pixels += 200 * np.exp(-(((rows - row) / down) ** 2) / 2 - ((columns - column) / across) ** 2 / 2)
    found = deidentify.burned_in(pixels.clip(0, 255).astype(np.uint8), flow=False)
    assert found.mean() < 1e-4


def test_what_a_site_does_about_burnt_in_text(tmp_path):
    pixels = with_text(tissue(), "ROE RICHARD", (40, 100))
    path = write_object(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[WHOLE])
    np.testing.assert_array_equal(read_frame(path, Rules("declared", "keep")).pixels, pixels)
    assert read_frame(path, Rules("declared", "mask")).pixels.max() <= 120
    with pytest.raises(UnusableImageError) as caught:
        read_frame(path, Rules("declared", "refuse"))
    assert caught.value.reason == Reason.BURNED_IN
    clean = write_object(tmp_path / "b.dcm", tissue(), SequenceOfUltrasoundRegions=[WHOLE])
    np.testing.assert_array_equal(read_frame(clean, Rules("declared", "refuse")).pixels, tissue())


@pytest.mark.parametrize(("said", "refused"), [("YES", True), ("NO", False)])
def test_burnt_in_by_its_own_word_and_no_region_known(tmp_path, said, refused):
    path = write_object(tmp_path / "a.dcm", tissue(), BurnedInAnnotation=said)
    if refused:
        with pytest.raises(UnusableImageError) as caught:
            read_frame(path, Rules("detect", "mask"))
        assert caught.value.reason == Reason.BURNED_IN
    else:
        assert read_frame(path, Rules("detect", "mask")).pixels.shape == (240, 320)
    assert read_frame(path, Rules((0, 40, 320, 240), "mask")).pixels.shape == (200, 320)


def test_the_field_is_found_between_text_and_banner():
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    pixels[:40] = (36, 60, 92)
    pixels[60:280, 80:330] = speckle(220, 250)[..., None]
    pixels[150:180, 150:200] //= 8  # a cyst
    pixels = with_text(with_text(pixels, "ROE RICHARD 1970", (20, 8), size=20), "Gn 60", (10, 100))
    (x0, y0, x1, y1), inside = deidentify.ultrasound_field(pixels)
    assert np.abs(np.array([x0, y0, x1, y1]) - [80, 60, 330, 280]).max() <= 5
    assert inside[100:110, 80:110].all()
    assert deidentify.ultrasound_field(np.zeros((50, 50), dtype=np.uint8)) is None
    assert deidentify.ultrasound_field(np.full((50, 50, 3), 77, dtype=np.uint8)) is None


def test_the_secret_of_a_site_is_its_own_and_readable_by_its_owner(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path))
    first, again, other = site_pseudonyms("a").of("ROE"), site_pseudonyms("a").of("ROE"), site_pseudonyms("b").of("ROE")
    assert first == again != other
    assert first != site_pseudonyms("a").of("DOE")
    key = tmp_path / "secrets/a.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    key.write_bytes(b"torn")
    assert site_pseudonyms("a").of("ROE") not in {first, other}
    assert "secret" not in repr(site_pseudonyms("a"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "file"))
    assert len(site_pseudonyms("a").of("ROE")) == 12


def test_json_holds_neither_file_names_nor_unexplained_cells(hospital, rows):
    rows[0]["sex"] = "ROE RICHARD"
    hospital.write("patients.csv", rows)
    (hospital.folder / "img/p00_T.png").write_bytes(b"")
    site, study = hospital.save()
    for arguments in (["check", str(site), "--study", str(study)], ["check", str(site)]):
        written = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert written.exit_code == 0
        assert "ROE RICHARD" not in written.stdout
        assert "p00" not in written.stdout
    shown = CliRunner().invoke(app, ["check", str(site), "--study", str(study)], catch_exceptions=False).stdout
    assert "ROE RICHARD" in shown
    assert "p00_T.png" in shown
    document = json.loads(CliRunner().invoke(app, ["check", str(site), "--study", str(study), "--json"]).stdout)
    assert [file["reason"] for file in document["images"]["unusable"]] == ["empty file"]
    assert list(document["variables"]["sex"]["unmapped"].values()) == [1]


@pytest.mark.parametrize("broken", ["cells", "code"])
def test_a_workers_log_names_keys_and_places_only(hospital, rows, caplog, monkeypatch, broken):
    if broken == "cells":
        hospital.write("patients.csv", [*rows, rows[0] | {"llnm": 0, "id": "p03"}, rows[1] | {"llnm": "ROE RICHARD"}])
    else:
        monkeypatch.setattr("client.worker.load_cohort", lambda *_, **__: {}[" ".join(("ROE", "RICHARD"))])
    site, _ = hospital.save()
    task = Task("run", "alpha", 0, "attempt", protocol_json=hospital.protocol().canonical_json, seed=0)
    worker = open_site(site, state=hospital.folder)
    worker.approve(hospital.protocol(), by="the test")
    with caplog.at_level(logging.DEBUG):
        reply = messages.decode(worker.handle(messages.encode(Message(DescribeRequest(task)))))
    assert reply.record.code == (FailureCode.COHORT_UNUSABLE if broken == "cells" else FailureCode.INTERNAL)
    assert ("cohort.label" if broken == "cells" else "KeyError") in caplog.text
    assert "ROE RICHARD" not in caplog.text
    assert "p03" not in caplog.text
