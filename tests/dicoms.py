"""DICOM ultrasound objects written for tests, in every transfer syntax that the reader is to know."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LOSSLESS = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg lossless": JPEGLosslessSV1,
    "jpeg 2000": JPEG2000Lossless,
}


def region(box: tuple[int, int, int, int], *, kind: int = 1, form: int = 1, cm: Sequence[float] | None = None) -> Dataset:
    """A region of ``box`` x0, y0, x1, y1 (the last two inclusive); ``cm`` a pixel: (down, across)."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = form, kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3 if cm else 0
    item.PhysicalDeltaY, item.PhysicalDeltaX = cm or (0.0, 0.0)
    return item


def write_object(path: Path, pixels: np.ndarray, *, syntax: str = "explicit", **tags: Any) -> Path:
    """Write ``pixels`` uint8 or uint16 ``[H, W]``, ``[F, H, W]``, ``[H, W, 3]`` or ``[F, H, W, 3]`` as an ultrasound object.

    ``syntax`` is a key of ``LOSSLESS``, ``jpeg`` (4:4:4) or ``jpeg 4:2:2``. ``tags`` are keywords and their values.
    """
    colours = 3 if pixels.shape[-1] == 3 else 1
    frames = pixels if pixels.ndim == (4 if colours == 3 else 3) else pixels[None]
    uid = LOSSLESS.get(syntax, JPEGBaseline8Bit)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid if syntax not in {"rle", "jpeg-ls"} else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", ULTRASOUND)
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = tags.pop("SOPInstanceUID", None) or generate_uid()
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality, data.PatientID = "US", "1"
    data.Rows, data.Columns = frames.shape[1:3]
    if len(frames) > 1:
        data.NumberOfFrames = len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation = colours, "RGB" if colours == 3 else "MONOCHROME2"
    if colours == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    order = ">" if syntax == "big endian" else "<"
    data.PixelData = frames.astype(frames.dtype.newbyteorder(order)).tobytes()
    data["PixelData"].VR = "OB" if pixels.dtype == np.uint8 else "OW"
    if syntax == "jpeg 2000":
        data.PixelData = encapsulate([_with_pillow(frame, "JPEG2000", irreversible=False, no_jp2=True) for frame in frames])
        data.PhotometricInterpretation = "YBR_RCT" if colours == 3 else "MONOCHROME2"
    elif syntax == "jpeg lossless":
        data.PixelData = encapsulate([lossless_jpeg(frame) for frame in frames])
    elif syntax.startswith("jpeg") and syntax != "jpeg-ls":
        halved = syntax == "jpeg 4:2:2"
        data.PixelData = encapsulate([_with_pillow(frame, "JPEG", quality=95, subsampling=int(halved)) for frame in frames])
        data.PhotometricInterpretation = "MONOCHROME2" if colours == 1 else "YBR_FULL_422" if halved else "YBR_FULL"
    for name, value in tags.items():
        setattr(data, name, value)
    if syntax in {"rle", "jpeg-ls"}:
        data.compress(uid, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, data, little_endian=syntax != "big endian", implicit_vr=syntax == "implicit", enforce_file_format=True)
    return path


def speckle(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Something like tissue: smooth noise, uint8 ``[height, width]``, between 40 and 120."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 121, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def colours(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Coloured smooth noise, uint8 ``[height, width, 3]``."""
    return np.stack([speckle(height, width, seed=3 * seed + channel) for channel in range(3)], axis=-1)


def with_text(pixels: np.ndarray, text: str, at: tuple[int, int], *, size: int = 16, level: int = 255) -> np.ndarray:
    """``pixels`` with ``text`` burnt in at x, y."""
    picture = Image.fromarray(pixels)
    fill = level if pixels.ndim == 2 else (level, level, level)
    ImageDraw.Draw(picture).text(at, text, fill=fill, font=ImageFont.load_default(size))
    return np.array(picture)


def coded(value: str, meaning: str) -> list[Dataset]:
    """A sequence of one coded value, as in ViewCodeSequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return [item]


def palette(entries: np.ndarray) -> Mapping[str, Any]:
    """Tags of a palette of ``entries`` uint8 ``[256, 3]``, stored with 16 bits as scanners do."""
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = (entries[:, channel].astype("<u2") << 8).tobytes()
    return tags


def _with_pillow(frame: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, kind, **options)
    return stream.getvalue()


def lossless_jpeg(frame: np.ndarray) -> bytes:
    """JPEG process 14, selection value 1 (ITU-T T.81 annex H), 8 bits, one Huffman table of 4-bit codes."""
    levels = frame[..., None] if frame.ndim == 2 else frame
    height, width, samples = levels.shape
    ids = range(1, samples + 1)
    start = bytes([8]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([samples])
    start += b"".join(bytes([k, 0x11, 0]) for k in ids)
    table = bytes([0, 0, 0, 0, 9, *[0] * 12, *range(9)])
    scan = bytes([samples]) + b"".join(bytes([k, 0]) for k in ids) + bytes([1, 0, 0])
    segments = b"".join(
        bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
        for marker, body in ((0xC3, start), (0xC4, table), (0xDA, scan))
    )
    wide = levels.astype(int)
    predicted = np.roll(wide, 1, axis=1)
    predicted[1:, 0] = wide[:-1, 0]
    predicted[0, 0] = 128
    bits = []
    for difference in (wide - predicted).ravel():
        category = int(abs(difference)).bit_length()
        bits.append(f"{category:04b}")
        if category:
            bits.append(f"{difference if difference > 0 else difference + 2**category - 1:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    coded_bytes = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    return b"\xff\xd8" + segments + coded_bytes + b"\xff\xd9"
