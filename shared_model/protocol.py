"""The study protocol: one federated training question, on which the center and every hospital must agree.

A protocol is written as ``study.toml``, validated whole (every fault at once), and identified by the SHA-256 of its
canonical JSON, so that a hospital approves exactly what will run.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared_model import config_file
from shared_model.config_file import Strict
from shared_model.protocol_comparators import Comparator
from shared_model.protocol_evaluation import Evaluation
from shared_model.protocol_explanation import Explanation
from shared_model.protocol_explanation import conflict as conflict_of_explanation
from shared_model.protocol_privacy import Privacy, conflict
from shared_model.protocol_words import PICTURED, Fraction, Name, Positive
from shared_model.variables import Variable

IMAGE_GROUP = "images"
BMODE = "bmode"
Encoder = Literal["small", "resnet18", "resnet50", "convnext_tiny", "efficientnet_b0", "vit_b_16"]

Intensity = Literal["none", "range", "gamma", "depth"]


class Study(Strict):
    """What is asked: ``outcome`` says in words what a positive label means, ``prevalence`` between which shares of patients
    it is expected at a site (it changes nothing; a site is told if its own share lies elsewhere)."""

    name: Name
    title: str
    outcome: str
    synthetic: bool = False
    prevalence: tuple[Fraction, Fraction] | None = None

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        if self.prevalence is not None and self.prevalence[0] > self.prevalence[1]:
            raise ValueError("prevalence is [low, high] with low <= high || swap the two numbers")
        return self


class View(Strict):
    """One kind of image of a patient, e.g. B-mode transverse; several images of one view are allowed."""

    modality: Name = BMODE


class Images(Strict):
    """How ultrasound images become tensors of ``size`` x ``size`` pixels: crop to the field of view, intensity, crop to the
    lesion, scale.

    ``field`` is the field of view that the site states, or also ``detect``-ed where it states none. With ``mm_per_pixel``,
    pictures of known scale show ``size * mm_per_pixel`` mm, round the middle of the lesion or of the field of view; others
    are fitted to ``size`` and counted. ``intensity`` takes the scanner's settings out of B-mode, each step on top of those
    before: ``range`` (percentiles 1 and 99 to black and white), ``gamma`` (median to a fixed grey), ``depth`` (time gain).
    """

    views: dict[Name, View] = Field(min_length=1)
    size: int = Field(ge=16, le=1024)
    per_patient: int = Field(default=2, ge=1, le=32)  # at most so many images of a patient enter the network
    crop: Literal["whole", "lesion"] = "whole"
    context: float = Field(default=0.25, ge=0.0, le=4.0)  # margin round a lesion crop, as a share of the lesion's box
    context_mm: float | None = Field(default=None, ge=0.0, le=100.0)  # the same in mm, where a picture's scale is known
    mm_per_pixel: float | None = Field(default=None, ge=0.01, le=5.0)
    field: Literal["given", "detect"] = "given"
    intensity: Intensity = "none"
    lesion_mask: bool = False  # the lesion's outline as a second channel

    @model_validator(mode="after")
    def _one_extent(self) -> Self:
        if self.context_mm is not None and self.crop != "lesion":
            raise ValueError('context_mm is the margin round a lesion || use crop = "lesion", or remove context_mm')
        if self.context_mm is not None and self.mm_per_pixel is not None:
            raise ValueError(
                "mm_per_pixel fixes what a picture shows, size * mm_per_pixel || remove context_mm or mm_per_pixel"
            )
        return self

    def intensity_of(self, view: str | None) -> Intensity:
        """What is done to the grey levels of ``view``: nothing but in B-mode, for those of Doppler measure flow."""
        return self.intensity if view is None or self.views[view].modality == BMODE else "none"

    @property
    def needs_scale(self) -> bool:
        """Whether a picture whose physical scale is unknown is treated otherwise than the rest."""
        return self.mm_per_pixel is not None or self.context_mm is not None

    @property
    def channels(self) -> int:
        """Grey level, and the lesion mask if asked for."""
        return 2 if self.lesion_mask else 1

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the imaging modalities, in the order in which the views name them first."""
        return tuple(dict.fromkeys(view.modality for view in self.views.values()))


class Pretrained(Strict):
    """Encoder weights from a file that each site holds; refused unless its SHA-256 matches."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Network(Strict):
    """``multimodal`` after Shen et al. 2025; the others are the baselines that reviewers ask for."""

    kind: Literal["multimodal", "image_only", "clinical_only", "logistic", "late_fusion"] = "multimodal"
    encoder: Encoder = "small"
    pretrained: Pretrained | None = None
    width: int = Field(default=64, ge=8, le=1024)
    heads: int = Field(default=4, ge=1, le=32)
    image_grid: int = Field(default=4, ge=1, le=14)  # an image becomes image_grid x image_grid tokens
    bidirectional_blocks: int = Field(default=2, ge=0, le=12)
    joint_blocks: int = Field(default=1, ge=0, le=24)
    dropout: Fraction = 0.1
    modality_dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is a multiple of heads {self.heads} || change one of the two")
        return self


class Augmentation(Strict):
    """Random changes of training images, drawn anew for each patient and epoch; 0 turns one off."""

    flip: bool = False
    rotate_degrees: float = Field(default=0.0, ge=0.0, le=90.0)
    scale: float = Field(default=0.0, ge=0.0, le=0.5)
    shift: float = Field(default=0.0, ge=0.0, le=0.5)
    brightness: float = Field(default=0.0, ge=0.0, le=1.0)
    contrast: float = Field(default=0.0, ge=0.0, le=1.0)
    gamma: float = Field(default=0.0, ge=0.0, le=1.0)
    noise: float = Field(default=0.0, ge=0.0, le=0.5)


class Training(Strict):
    """Local training in one round at one site: exactly one of ``epochs`` and ``steps``."""

    epochs: int | None = Field(default=None, ge=1, le=1000)
    steps: int | None = Field(default=None, ge=1, le=100_000)
    batch_size: int = Field(default=32, ge=1, le=4096)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_decay: float = Field(default=0.0, ge=0.0)
    schedule: Literal["constant", "cosine"] = "constant"  # over all rounds of the study
    warmup_rounds: int = Field(default=0, ge=0)
    class_weighting: Literal["none", "balanced"] = "none"
    gradient_clip: Positive | None = None
    compile: bool = False
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("exactly one of epochs and steps || keep one of the two")
        return self


class ClientRule(Strict):
    """How a site keeps its local training near the federation's model."""

    kind: Literal["plain", "fedprox", "scaffold", "ditto"] = "plain"
    strength: float = Field(default=0.01, ge=0.0)  # mu of FedProx, lambda of Ditto


class AggregationRule(Strict):
    """How updates become one pseudo-gradient; ``byzantine`` is the number of hostile sites to withstand."""

    kind: Literal["weighted_mean", "median", "trimmed_mean", "krum"] = "weighted_mean"
    byzantine: int = Field(default=1, ge=1, le=10)


class ServerOptimizer(Strict):
    """What the center does with the pseudo-gradient: ``sgd`` at lr 1 is FedAvg, with momentum FedAvgM."""

    kind: Literal["sgd", "adam", "yogi", "adagrad"] = "sgd"
    lr: Positive = 1.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    tau: Positive = 1e-3  # degree of adaptivity, Reddi et al. 2021


class Federation(Strict):
    """Rounds, what counts as enough sites, and what a reply must look like to count."""

    rounds: int = Field(ge=1, le=10_000)
    client_rule: ClientRule = ClientRule()
    aggregation: AggregationRule = AggregationRule()
    server_optimizer: ServerOptimizer = ServerOptimizer()
    personal: tuple[Literal["norm", "head"], ...] = ()  # parameters that stay at the site: FedBN, FedPer
    normalization: Literal["federated", "site"] = "federated"
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # share of the enrolled sites whose reply must count
    deadline_s: Positive = 3600.0
    time_out_factor: float = Field(default=4.0, ge=1.0, le=1e6)  # of a site's own recent rounds, once enough have answered
    attempts: int = Field(default=2, ge=1, le=10)  # how often a round without quorum is tried before the study stops
    max_update_norm: Positive = 1e3


class StudyProtocol(Strict):
    """All of a study. See README "Writing a study" for every key."""

    study: Study
    variables: dict[Name, Variable] = Field(default_factory=dict)
    images: Images | None = None
    network: Network = Network()
    training: Training
    federation: Federation
    privacy: Privacy = Privacy()
    evaluation: Evaluation = Evaluation()
    explanation: Explanation | None = None
    comparators: dict[Name, Comparator] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _comparators_are_of_this_study(self) -> Self:
        for name, comparator in self.comparators.items():
            if name in self.variables and comparator.variable is None:
                remedy = f'write variable = "{name}" in place of its definition, or give it another name'
                raise ValueError(f"comparators.{name}: a variable of the study has this name || {remedy}")
            try:
                comparator.check_against(self.variables)
            except ValueError as error:
                raise ValueError(f"comparators.{name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        kind, rule, aggregation = self.network.kind, self.federation.client_rule, self.federation.aggregation
        if kind in PICTURED and self.images is None:
            raise ValueError(f'network "{kind}" needs [images] || add [images], or use "clinical_only" or "logistic"')
        if kind != "image_only" and not self.variables:
            raise ValueError(f'network "{kind}" needs [variables] || add variables, or use "image_only"')
        if IMAGE_GROUP in self.groups:
            raise ValueError(f'"{IMAGE_GROUP}" is no name for a tabular group || rename the group')
        if self.images and (shared := set(self.groups) & set(self.images.modalities)):
            raise ValueError(f"modality names are distinct, but {sorted(shared)} are both tabular and imaging || rename one")
        if rule.kind == "scaffold" and aggregation.kind != "weighted_mean":
            raise ValueError(
                "SCAFFOLD's control variates are averages || use aggregation weighted_mean, or another client_rule"
            )
        if rule.kind == "scaffold" and self.training.optimizer != "sgd":
            raise ValueError('SCAFFOLD corrects plain gradient steps || use optimizer = "sgd", or another client_rule')
        if rule.kind == "scaffold" and self.training.momentum:
            raise ValueError("SCAFFOLD's control variates assume plain steps || remove momentum, or use another client_rule")
        if self.training.momentum and self.training.optimizer != "sgd":
            raise ValueError('momentum belongs to "sgd" || remove momentum, or use optimizer = "sgd"')
        if self.federation.personal:
            self._check_personal()
        self._check_subgroups()
        if problem := conflict(self) or conflict_of_explanation(self):
            raise ValueError(problem)
        return self

    def _check_personal(self) -> None:
        rule = self.federation.client_rule.kind
        if rule == "ditto":
            raise ValueError("Ditto keeps a whole model at each site || remove personal, or use another client_rule")
        if rule == "scaffold":
            raise ValueError("SCAFFOLD needs every parameter shared || remove personal, or use another client_rule")
        if self.evaluation.external:
            raise ValueError(
                "an external site does not train, and has no layers of its own || remove federation.personal, or external"
            )
        if "norm" in self.federation.personal and self.network.kind == "logistic":
            raise ValueError('the logistic model has no normalisation layers || remove "norm" from personal')

    def _check_subgroups(self) -> None:
        for name, subgroup in self.evaluation.subgroups.items():
            variable = self.variables.get(name)
            if variable is None:
                raise ValueError(f'subgroups are of variables, and "{name}" is none || name one of [variables]')
            if (variable.kind == "numeric") != bool(subgroup.cuts):
                raise ValueError(
                    f'cuts make bands of a numeric variable, and "{name}" is {variable.kind} || give or remove cuts'
                )

    @property
    def ratings(self) -> dict[str, Variable]:
        """Comparators that sites map themselves; the others are variables of the study."""
        return {name: comparator.defined({}) for name, comparator in self.comparators.items() if comparator.variable is None}

    @property
    def mapped(self) -> dict[str, Variable]:
        """All for which sites name a column: variables, and ratings."""
        return self.variables | self.ratings

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the tabular modalities (``clinical``, ``genomic`` ...), in order of first mention."""
        return tuple(dict.fromkeys(variable.group for variable in self.variables.values()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Every modality of the study: imaging first, then tabular groups."""
        return (*(self.images.modalities if self.images else ()), *self.groups)

    @property
    def canonical_json(self) -> str:
        """One spelling of the protocol: defaults filled in, comments gone. The order of variables and views is kept, for
        it is the order of the network's parameters."""
        return self.model_dump_json()

    @property
    def base(self) -> Self:
        """The protocol without what only says which of the patients are tested: one approval of it covers every fold, and
        every run that leaves a site out."""
        return self.model_copy(
            update={"evaluation": self.evaluation.model_copy(update={"external": (), "fold": None})},
        )

    @property
    def sha256(self) -> str:
        """Identity of the protocol: SHA-256 of ``canonical_json``, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()


def read_protocol(path: Path) -> StudyProtocol:
    """Read ``study.toml``.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    return config_file.load(path, StudyProtocol)
