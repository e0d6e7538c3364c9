"""A study's model as a file: the network of its protocol with weights, checked before anything is believed."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from client.state import SiteState
from client.tasks.train import PERSONAL
from shared_model import config_file
from shared_model.errors import ConfigurationError, Fault
from shared_model.network import PatientNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization

_NORMALIZATION: TypeAdapter[Normalization | None] = TypeAdapter(Normalization | None)
_HEADER = 8  # bytes that tell the length of a safetensors header


@dataclass(frozen=True)
class Model:
    """``sha256`` is of the file; the weights are those after ``round``; ``normalization`` None is each site's own."""

    network: PatientNetwork
    protocol: StudyProtocol
    normalization: Normalization | None
    run: str
    round: int
    sha256: str

    @classmethod
    def read(cls, path: Path, *, own: Normalization | None = None) -> Self:
        """The model in ``path``, in evaluation mode; ``own`` is the site's normalisation, for a model that has none.

        Raises:
            ConfigurationError: no file, no model of a study, or one that was changed.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unusable(path, f"{error.strerror}", "the models/best.safetensors of a run") from None
        try:
            metadata = json.loads(content[_HEADER : _HEADER + int.from_bytes(content[:_HEADER], "little")])["__metadata__"]
            tensors = load(content)
            protocol = config_file.validate_json(metadata["protocol"], StudyProtocol, where=str(path))
            normalization = _NORMALIZATION.validate_json(metadata["normalization"])
            if protocol.sha256 != metadata["protocol_sha256"]:
                raise _unusable(path, "a protocol that is not the one it was trained under", "an unchanged file")
            begun = protocol.network.model_copy(update={"pretrained": None})  # all weights are in this file
            network = build_network(protocol.model_copy(update={"network": begun}), normalization=normalization or own, seed=0)
            # Buffers of a run whose normalisation is each site's own are a stand-in; what the site has is put back.
            state = tensors if normalization is not None else {k: v for k, v in tensors.items() if "normalizer" not in k}
            network.load_state_dict(network.state_dict() | state, strict=True)
            run, round_ = str(metadata["run"]), int(metadata["round"])
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, ValidationError) as error:
            raise _unusable(path, f"no model of a study ({type(error).__name__})", "the models/best.safetensors") from None
        return cls(network.eval(), protocol, normalization, run, round_, hashlib.sha256(content).hexdigest())


def with_own_layers(model: Model, state: Path | None, *, site: str) -> Model:
    """``model`` with the layers that ``site`` kept to itself, from the worker's ``state``; as it is if the study has none.

    Raises:
        ConfigurationError: there are none of this run in ``state``.
    """
    spec = ParameterSpec.of(model.network, personal=model.protocol.federation.personal)
    if not spec.personal:
        return model
    kept = SiteState(state / model.run / site).load_last(model.round) if state else {}
    if PERSONAL not in kept:
        found = f"no layers of {site} from run {model.run} in {state}" if state else "not given"
        expected = "the worker's state: in this study each hospital keeps layers of its own, which the model's file lacks"
        remedy = "give the --state of the worker that took part in this run; a hospital that did not cannot use this model"
        raise ConfigurationError([Fault("--state", "", found, expected, remedy)])
    spec.load_personal(model.network, kept[PERSONAL])
    return model


def _unusable(path: Path, found: str, expected: str) -> ConfigurationError:
    return ConfigurationError([Fault("--model", "", f"{path}: {found}", expected, "ask the coordinating center for it again")])
