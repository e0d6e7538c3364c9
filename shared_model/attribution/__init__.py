"""Why the network said so, for one patient: modalities, variables, pictures, and tests of each of these explanations.

Everything is in logit units (log odds of the outcome) and says what the *model* reacts to, never what the disease is.

Notation: ``B`` patients, ``A`` modalities of the network, ``J`` variables (numeric, then categorical ones), ``V`` image
slots, ``H`` = ``W`` pixels a side, ``G`` places a side into which a map is cut for tests.
"""

from shared_model.attribution.frozen import Frozen
from shared_model.attribution.maps import METHODS, Method, picture_map
from shared_model.attribution.modalities import modality_shapley
from shared_model.attribution.shares import Attribution
from shared_model.attribution.variables import integrated_gradients, sampled_shapley

__all__ = [
    "METHODS",
    "Attribution",
    "Frozen",
    "Method",
    "integrated_gradients",
    "modality_shapley",
    "picture_map",
    "sampled_shapley",
]
