"""The networks of a study: patients in, one logit each out.

``multimodal`` after Shen et al. 2025: image and table tokens, bidirectional attention between the two streams, joint
attention over both, mean of the tokens, one linear head. ``image_only`` and ``clinical_only`` are the same with one
stream; ``logistic`` is a linear model of the tabular variables; ``late_fusion`` adds the log odds of ``image_only`` and
``logistic`` up.

Notation: ``B`` patients, ``T`` tokens, ``D`` width, ``A`` modalities of the network, ``F`` features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model.fusion import NORM_EPSILON, BidirectionalBlock, JointBlock
from shared_model.inputs import ABSENT, PatientBatch, categorical_names, numeric_names
from shared_model.pretrained import load_pictures
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization
from shared_model.tokens import ImageTokens, Normalizer, TableTokens, Tokens, groups_present


class PatientNetwork(nn.Module):
    """What every network of a study is: ``forward`` maps a ``PatientBatch`` to logits ``[B]``.

    Attributes:
        head: the last layer, a ``nn.Linear`` to one logit.
    """

    head: nn.Linear

    def forward(self, batch: PatientBatch) -> Tensor:
        """Log odds of the outcome, float ``[B]``."""
        raise NotImplementedError

    def set_normalization(self, normalization: Normalization | None) -> None:
        """Standardise variables with ``normalization`` from now on; parameters stay as they are.

        Raises:
            ValueError: the normalization is of other variables, or None where the network has any.
        """
        for module in self.modules():
            if isinstance(module, Normalizer):
                if normalization is None:
                    raise ValueError("a network of tabular variables needs their normalization")
                module.set(normalization)


def build_network(protocol: StudyProtocol, *, normalization: Normalization | None, seed: int) -> PatientNetwork:
    """The network of ``protocol`` on the CPU, in training mode.

    Parameters are those that ``torch.manual_seed(seed)`` and plain construction give, on every machine alike; the global
    generator stays as it was.

    Args:
        protocol: kind and sizes of the network, variables, views; parameters that it freezes need no gradient, and are no
            part of what is federated.
        normalization: of the study or the site, as buffers. None where the network has no variables, and where only
            its parameters matter: until ``set_normalization`` the logits of a network with variables are NaN.
        seed: of the parameters, 0 or greater.

    Raises:
        ConfigurationError: the images' size does not suit the encoder, or its pretrained weights cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed accelerators, which are not forked
        if protocol.network.kind == "logistic":
            return LogisticNetwork(protocol, normalization=normalization)
        kind = LateFusionNetwork if protocol.network.kind == "late_fusion" else MultimodalNetwork
        network = kind(protocol, normalization=normalization)
    if protocol.privacy.trainable == "fusion_and_head":
        for part in network.before_fusion:
            part.requires_grad_(False)
    return network


class LogisticNetwork(PatientNetwork):
    """Logistic regression: one linear layer over standardised variables.

    Features, in the protocol's order of variables: a numeric variable's standardised value; of a categorical one, an
    indicator of each category but the first, standardised with the category's frequency. A missing value is a feature 0,
    the mean.
    """

    feature: Tensor  # [F], index into numeric variables, then indicators of all categories
    owner: Tensor  # categorical variable of each indicator
    code: Tensor  # category of each indicator

    def __init__(self, protocol: StudyProtocol, *, normalization: Normalization | None) -> None:
        super().__init__()
        feature = _logistic_features(protocol)
        # Nothing is drawn before the head: its weights are those of a nn.Linear under the same seed.
        self.head = nn.Linear(len(feature), 1)
        self.normalizer = Normalizer(protocol, normalization)
        counts = [len(protocol.variables[name].categories) for name in categorical_names(protocol)]
        owner = [k for k, count in enumerate(counts) for _ in range(count)]
        code = [category for count in counts for category in range(count)]
        for name, index in {"feature": feature, "owner": owner, "code": code}.items():
            self.register_buffer(name, torch.tensor(index, dtype=torch.int64), persistent=False)

    def features(self, batch: PatientBatch) -> Tensor:
        """The standardised features ``[B, F]``."""
        everything = torch.cat([self.normalizer.numeric(batch), self._indicators(batch, self.normalizer.frequency)], dim=1)
        return everything[:, self.feature]

    def forward(self, batch: PatientBatch) -> Tensor:
        """Log odds of the outcome, float ``[B]``."""
        logits: Tensor = self.head(self.features(batch))
        return logits.squeeze(1)

    def _indicators(self, batch: PatientBatch, frequency: Tensor) -> Tensor:
        codes = batch.categorical[:, self.owner]  # [B, categories of all variables]
        spread = (frequency * (1.0 - frequency)).sqrt()
        standardised = ((codes == self.code).to(frequency.dtype) - frequency) / torch.where(spread == 0.0, 1.0, spread)
        return torch.where(codes != ABSENT, standardised, 0.0)


class MultimodalNetwork(PatientNetwork):
    """Tokens, fusion, pooling, head. A network of one stream has joint blocks in place of the bidirectional ones.

    Attributes:
        modalities: names of the modalities it looks at: imaging first, then tabular groups.
        image_tokens: the image stream, None in ``clinical_only``.
        table_tokens: the table stream, None in ``image_only``.
    """

    table_tokens: "TableTokens | TableTerms | None"

    def __init__(self, protocol: StudyProtocol, *, normalization: Normalization | None) -> None:
        super().__init__()
        network = protocol.network
        images = None if network.kind == "clinical_only" else protocol.images
        self.image_tokens = ImageTokens(images, network) if images else None
        self.table_tokens = None if network.kind == "image_only" else TableTokens(protocol, normalization=normalization)
        self.modalities = tuple(name for stream in self._streams() for name in stream.modalities)
        self.modality_dropout = network.modality_dropout
        block = BidirectionalBlock if len(self._streams()) == 2 else JointBlock
        self.stream_blocks = nn.ModuleList(
            block(network.width, heads=network.heads, dropout=network.dropout) for _ in range(network.bidirectional_blocks)
        )
        self.joint_blocks = nn.ModuleList(
            JointBlock(network.width, heads=network.heads, dropout=network.dropout) for _ in range(network.joint_blocks)
        )
        self.norm = nn.LayerNorm(network.width, eps=NORM_EPSILON)
        self.head = nn.Linear(network.width, 1)

    def forward(self, batch: PatientBatch) -> Tensor:
        """Log odds of the outcome, float ``[B]``. In training, modalities are dropped at random by the global generator."""
        modalities = self.present(batch)
        if self.training and self.modality_dropout:
            modalities = drop_modalities(modalities, probability=self.modality_dropout)
        return self.logits(batch, modalities)

    @property
    def before_fusion(self) -> list[nn.Module]:
        """What turns pictures into what is fused: all that ``privacy.trainable = "fusion_and_head"`` leaves as it began."""
        return [] if self.image_tokens is None else [self.image_tokens.encoder]

    def present(self, batch: PatientBatch) -> Tensor:
        """Which ``modalities`` a patient has anything of, bool ``[B, A]``."""
        return torch.cat([stream.present(batch) for stream in self._streams()], dim=1)

    def logits(self, batch: PatientBatch, modalities: Tensor) -> Tensor:
        """Log odds ``[B]`` from ``modalities`` bool ``[B, A]`` alone, as if the patient had no others."""
        return self.judge(self.tokens(batch, modalities))

    def tokens(self, batch: PatientBatch, modalities: Tensor) -> list[Tokens]:
        """Tokens of each stream, images first."""
        return [stream(batch, share) for stream, share in self._shares(modalities)]

    def contents(self, batch: PatientBatch, modalities: Tensor) -> list[Tensor]:
        """What ``modalities`` bool ``[B, A]`` put into the tokens of each stream: image features ``[B, V, G * G, features]``,
        then values of variables ``[B, N + K, D]``."""
        return [stream.contents(batch, share) for stream, share in self._shares(modalities)]

    def logits_of(self, batch: PatientBatch, contents: list[Tensor], modalities: Tensor) -> Tensor:
        """``logits`` of ``contents`` in place of the patients' own ones, which may be of more than ``modalities``; neither
        pixels nor values of ``batch`` are looked at."""
        parts = zip(self._shares(modalities), contents, strict=True)
        return self.judge([stream.assemble(batch, content, share) for (stream, share), content in parts])

    def judge(self, streams: list[Tokens]) -> Tensor:
        """Log odds ``[B]`` from all tokens of a patient."""
        return self.classify(self.fuse(streams))

    def fuse(self, streams: list[Tokens]) -> Tokens:
        """All tokens of a patient, after attention within and between streams."""
        values, masks = zip(*streams, strict=True)
        for block in self.stream_blocks:
            if len(values) == 2:
                values = block(*values, image_mask=masks[0], table_mask=masks[1])
            else:
                values = (block(values[0], mask=masks[0]),)
        joint, mask = torch.cat(values, dim=1), torch.cat(masks, dim=1)
        for block in self.joint_blocks:
            joint = block(joint, mask=mask)
        return Tokens(joint, mask)

    def classify(self, tokens: Tokens) -> Tensor:
        """Log odds ``[B]`` from the mean of a patient's tokens."""
        weight = tokens.mask.to(tokens.values.dtype)[:, :, None]  # [B, T, 1]
        mean = (tokens.values * weight).sum(dim=1) / weight.sum(dim=1)  # [B, D]
        logits: Tensor = self.head(self.norm(mean))
        return logits.squeeze(1)

    def _shares(self, modalities: Tensor) -> "list[tuple[ImageTokens | TableTokens | TableTerms, Tensor]]":
        """Each stream with its share of ``modalities`` ``[B, A]``."""
        streams = self._streams()
        return list(zip(streams, torch.split(modalities, [len(stream.modalities) for stream in streams], dim=1), strict=True))

    def _streams(self) -> "list[ImageTokens | TableTokens | TableTerms]":
        return [stream for stream in (self.image_tokens, self.table_tokens) if stream is not None]


class TableTerms(nn.Module):
    """Logistic regression as a stream of ``LateFusionNetwork``: one token, which is the log odds of a patient's variables.

    What a variable puts in is its term; a group that is left out is at its mean, whose terms are 0.

    Attributes:
        modalities: names of the groups, ``A`` of them.
    """

    group: Tensor  # [N + K]
    variable: Tensor  # [F], of each feature of the regression, in the order of tokens

    def __init__(self, protocol: StudyProtocol, *, normalization: Normalization | None) -> None:
        super().__init__()
        names = (*numeric_names(protocol), *categorical_names(protocol))
        self.modalities = protocol.groups
        self.regression = LogisticNetwork(protocol, normalization=normalization)
        variable = [
            names.index(name)
            for name, variable in protocol.variables.items()
            for _ in range(max(len(variable.categories) - 1, 1))
        ]
        group = [self.modalities.index(protocol.variables[name].group) for name in names]
        self.register_buffer("variable", torch.tensor(variable), persistent=False)
        self.register_buffer("group", torch.tensor(group), persistent=False)

    def present(self, batch: PatientBatch) -> Tensor:
        """Groups of which a patient has any value, bool ``[B, A]``."""
        return groups_present(batch, self.group, count=len(self.modalities))

    def forward(self, batch: PatientBatch, modalities: Tensor) -> Tokens:
        """The token of the groups ``modalities`` bool ``[B, A]``; T = D = 1."""
        kept = modalities[:, self.group[self.variable]]  # [B, F]
        return _only(self.regression.head(self.regression.features(batch) * kept))

    def contents(self, batch: PatientBatch, modalities: Tensor) -> Tensor:
        """The terms of all variables, ``[B, N + K, 1]``; ``modalities`` change nothing."""
        terms = self.regression.features(batch) * self.regression.head.weight  # [B, F]
        return (terms @ F.one_hot(self.variable, len(self.group)).to(terms.dtype))[:, :, None]

    def mean_contents(self) -> Tensor:
        """The terms of the mean of the training patients, all 0: ``[N + K, 1]``."""
        return self.regression.head.weight.new_zeros(len(self.group), 1)

    def assemble(self, batch: PatientBatch, contents: Tensor, modalities: Tensor) -> Tokens:
        """The token of ``contents``; terms of groups beyond ``modalities`` are left out."""
        kept = contents[:, :, 0] * modalities[:, self.group]  # [B, N + K]
        return _only(kept.sum(dim=1, keepdim=True) + self.regression.head.bias)


class LateFusionNetwork(MultimodalNetwork):
    """The network of pictures alone and logistic regression over the variables, whose log odds are added up.

    With frozen pictures what is left to train is linear and small: the two heads. Whatever a run of ``image_only`` with the
    same settings has learned can be its beginning (``network.pretrained``), for these parameters have the same names.
    """

    def __init__(self, protocol: StudyProtocol, *, normalization: Normalization | None) -> None:
        network = protocol.network
        super().__init__(
            protocol.model_copy(update={"network": network.model_copy(update={"kind": "image_only"})}), normalization=None
        )
        if network.pretrained:
            load_pictures(self, network.pretrained)
        self.table_tokens = TableTerms(protocol, normalization=normalization)
        self.modalities = (*self.modalities, *self.table_tokens.modalities)

    @property
    def before_fusion(self) -> list[nn.Module]:
        """Everything of the pictures but the head."""
        assert self.image_tokens is not None
        return [self.image_tokens, self.stream_blocks, self.joint_blocks, self.norm]

    def judge(self, streams: list[Tokens]) -> Tensor:
        """Log odds ``[B]``: those of the pictures plus those of the variables."""
        pictures, table = streams
        return super().judge([pictures]) + table.values[:, 0, 0]


def _only(log_odds: Tensor) -> Tokens:
    """``log_odds`` ``[B, 1]`` as the one token of a stream."""
    return Tokens(log_odds[:, :, None], torch.ones_like(log_odds, dtype=torch.bool))


def drop_modalities(present: Tensor, *, probability: float) -> Tensor:
    """Take each modality of ``present`` bool ``[B, A]`` away with ``probability``, but never the last of a patient's.

    Draws from the global generator of the device.
    """
    draw = torch.rand(present.shape, device=present.device)
    luckiest = torch.where(present, draw, -1.0).argmax(dim=1, keepdim=True)  # [B, 1]
    kept = (draw >= probability).scatter(1, luckiest, True)
    return present & kept


def _logistic_features(protocol: StudyProtocol) -> list[int]:
    """Columns of (numeric variables, indicators of all categories) that are features, in the protocol's order."""
    numeric = {name: column for column, name in enumerate(numeric_names(protocol))}
    features: list[int] = []
    indicator = len(numeric)
    for name, variable in protocol.variables.items():
        if name in numeric:
            features.append(numeric[name])
        else:
            features += range(indicator + 1, indicator + len(variable.categories))
            indicator += len(variable.categories)
    return features
