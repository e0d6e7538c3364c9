"""Synthetic ultrasound as DICOM objects of a hospital's picture archive."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, UltrasoundImageStorage, generate_uid

from client.synthetic.overlay import LEFT, TOP
from client.synthetic.physics import Scanner

_TWO_DIMENSIONAL, _TISSUE, _COLOUR_FLOW, _CENTIMETRES = 1, 1, 2, 3
_FIRST_DAY = np.datetime64("2021-03-01")


def write_object(
    file: Path,
    pixels: NDArray[np.uint8],
    *,
    scanner: Scanner,
    patient: str,
    name: tuple[str, str],
    sex: str,
    age_years: float,
    number: int,
    series: int,
    description: str,
) -> str:
    """Write one Ultrasound Image Storage object; return its SOP instance UID, which follows from ``patient`` and ``series``.

    Args:
        pixels: the stored picture, ``[H, W]`` or ``[H, W, 3]``, with its frame; in lossless JPEG-LS if it is in colour.
        name: surname and given name.
        number: of the patient, from 1; decides dates.
        series: of the object in its study, from 1.
        description: of the series, such as "THY TRANS".
    """
    colour = pixels.ndim == 3
    study_uid = generate_uid(entropy_srcs=["consilium synthetic", patient])
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["consilium synthetic", patient, str(series)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["consilium synthetic series", patient, str(series)])
    dataset.Modality = "US"
    dataset.Manufacturer = "Synthetic Ultrasound"
    dataset.ManufacturerModelName = scanner.label
    dataset.InstitutionName = "Maple Hospital (synthetic)"
    dataset.PatientID = patient
    dataset.PatientName = "^".join(name)
    dataset.PatientSex = sex
    dataset.PatientAge = f"{round(age_years):03d}Y"
    dataset.PatientBirthDate = ""
    dataset.StudyDate = str(_FIRST_DAY + np.timedelta64(number % 700, "D")).replace("-", "")
    dataset.StudyTime = f"{8 + number % 9:02d}{number * 7 % 60:02d}00"
    dataset.AccessionNumber = f"A{number:07d}"
    dataset.StudyID = str(number)
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber, dataset.InstanceNumber = series, 1
    dataset.SeriesDescription = description
    dataset.BodyPartExamined = "THYROID"
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"]
    dataset.SequenceOfUltrasoundRegions = [_region(scanner, colour=colour)]
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB"
    if colour:
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.save_as(file, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def _region(scanner: Scanner, *, colour: bool) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat = _TWO_DIMENSIONAL
    region.RegionDataType = _COLOUR_FLOW if colour else _TISSUE
    region.RegionFlags = 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = LEFT, TOP
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = LEFT + scanner.pixels - 1, TOP + scanner.pixels - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = _CENTIMETRES
    region.PhysicalDeltaX = region.PhysicalDeltaY = scanner.mm_per_pixel / 10.0
    region.TransducerFrequency = round(1000.0 * scanner.frequency_mhz)
    return region
