"""What stays in (GPU) memory between requests of one study at one site: cohort, network, parameter layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from client.cohort.tensors import CohortTensors, StudyPatients
from client.tasks.describe import described_part, moments_and_counts
from client.training.loop import resident
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import Part, Vector
from shared_model.network import PatientNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CohortFlow, Normalization

SCORING_BATCH = 256
MODEL_NORM_LIMIT = 1e4  # a ResNet-50 that was trained has a few hundred


@dataclass(frozen=True)
class Workbench:
    """One site's cohort and network for one protocol.

    ``parts`` holds int64 indices of patients, ``first_personal`` the site's own layers before any training ``[E]``.
    """

    site: str
    protocol: StudyProtocol
    tensors: CohortTensors
    parts: Mapping[Part, Tensor]
    flow: CohortFlow
    network: PatientNetwork
    spec: ParameterSpec
    first_personal: Vector

    @classmethod
    def set_up(cls, site: str, protocol: StudyProtocol, patients: StudyPatients, *, seed: int) -> Self:
        """Build the network and move it and the patients to the GPU, if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        normalization = own_normalization(patients.tensors, patients.parts, protocol)
        network = build_network(protocol, normalization=normalization, seed=seed).to(device)
        if device.type == "cuda":
            network = network.to(memory_format=torch.channels_last)
        spec = ParameterSpec.of(network, personal=protocol.federation.personal)
        tensors = resident(patients.tensors, device)
        return cls(site, protocol, tensors, patients.parts, patients.flow, network, spec, spec.personal_vector(network))

    def receive(
        self, weights: Vector | None, *, layout: str, normalization: Normalization | None, personal: Vector | None
    ) -> None:
        """Put the center's model into the network, and the site's own layers ``personal`` (None: before any training).

        ``normalization`` None means the site's own.

        Raises:
            RefusedError: ``MODEL_REFUSED`` if it is not finite or not of this study's shape.
        """
        if layout != self.spec.sha256:
            raise RefusedError(FailureCode.MODEL_REFUSED, "the center's network has other parameters: another release?")
        if weights is None or weights.shape != (self.spec.size,):
            found = None if weights is None else weights.shape
            raise RefusedError(FailureCode.MODEL_REFUSED, f"model of {found} where the study has {self.spec.size} parameters")
        if not np.isfinite(weights).all():
            raise RefusedError(FailureCode.MODEL_REFUSED, "model with values that are not finite")
        if (norm := float(np.linalg.norm(weights.astype(np.float64)))) > MODEL_NORM_LIMIT:
            raise RefusedError(FailureCode.MODEL_REFUSED, f"model of norm {norm:.3g}: made to single somebody out, or diverged")
        self.spec.load(self.network, weights)
        self.spec.load_personal(self.network, self.first_personal if personal is None else personal)
        if self.protocol.variables:
            own = normalization or own_normalization(self.tensors, self.parts, self.protocol)
            self.network.set_normalization(own)

    def scores(self, index: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Predicted probabilities float64 ``[n]`` of patients ``index`` by the network as it stands."""
        device = next(self.network.parameters()).device
        self.network.eval()
        with torch.inference_mode():
            chunks = [
                torch.sigmoid(self.network(self.tensors.batch(members.to(self.tensors.label.device)).to(device)).double())
                for members in torch.split(index, SCORING_BATCH)
            ]
        return torch.cat(chunks).cpu().numpy() if chunks else np.zeros(0)

    def labels(self, index: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Outcomes float64 ``[n]``, 0 or 1, of patients ``index``."""
        return self.tensors.label[index.to(self.tensors.label.device)].double().cpu().numpy()


def own_normalization(tensors: CohortTensors, parts: Mapping[Part, Tensor], protocol: StudyProtocol) -> Normalization | None:
    """Normalisation from this site's own patients, None for a study without variables."""
    if not protocol.variables:
        return None
    moments, counts = moments_and_counts(tensors, parts[described_part(protocol)], protocol)
    return Normalization.of(list(moments.values()), list(counts.values()))
