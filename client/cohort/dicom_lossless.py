"""A decoder of lossless JPEG for pydicom, by way of Pillow: libjpeg-turbo 3 reads it, but pydicom does not ask Pillow.

The interface is pydicom's for decoder plugins: https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

import io

from PIL import Image
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

DECODER_DEPENDENCIES = {JPEGLossless: ("pillow>=12",), JPEGLosslessSV1: ("pillow>=12",)}

_START_OF_SCAN = 0xDA
_APPLICATION_MARKERS = range(0xE0, 0xF0)
_NO_TRANSFORM = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def is_available(uid: str) -> bool:
    """Whether ``uid`` is one of the two transfer syntaxes of lossless JPEG."""
    return uid in DECODER_DEPENDENCIES


def install() -> None:
    """Make pydicom use this decoder; once is enough, and again does no harm."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if "consilium" not in decoder.available_plugins:
            decoder.add_plugin("consilium", (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """The samples of one frame as they were compressed, pixel by pixel.

    Raises:
        ValueError: more than 8 bits a sample, which Pillow cannot read.
    """
    if runner.bits_allocated != 8:
        raise ValueError("lossless JPEG of more than 8 bits")
    with Image.open(io.BytesIO(_as_plain_samples(source)), formats=("JPEG",)) as picture:
        samples = picture.tobytes()
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return samples


def _as_plain_samples(source: bytes) -> bytes:
    """``source`` with the marker that says: no colour transform. What the samples mean is DICOM's to say."""
    kept, place = [source[:2], _NO_TRANSFORM], 2
    while place + 4 <= len(source) and source[place] == 0xFF and source[place + 1] != _START_OF_SCAN:
        end = place + 2 + int.from_bytes(source[place + 2 : place + 4], "big")
        if source[place + 1] not in _APPLICATION_MARKERS:
            kept.append(source[place:end])
        place = end
    return b"".join([*kept, source[place:]])
