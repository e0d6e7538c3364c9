"""The methods section, as it would stand in a paper: every sentence follows from the protocol and the results document."""

from typing import Any

from server.report.prose.modelling import federation, network, training
from server.report.prose.part import Part
from server.report.prose.patients import missing, outcome, participants, predictors
from server.report.prose.privacy import privacy
from server.report.prose.validation import statistics, validation
from shared_model import config_file
from shared_model.protocol import StudyProtocol

Json = dict[str, Any]

_PARTS = (participants, outcome, predictors, missing, network, training, federation, privacy, validation, statistics)


def methods(document: Json) -> list[Part]:
    """The parts that have something to say, in the order of a paper."""
    protocol = config_file.validate(document["protocol"], StudyProtocol, where="results.json")
    written = [write(protocol, document) for write in _PARTS]
    return [one for one in written if one.sentences]
