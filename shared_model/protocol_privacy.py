"""``[privacy]``: what protects patients beyond their staying at the hospital, and which combinations cannot."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from shared_model.config_file import Strict
from shared_model.protocol_words import PICTURED

if TYPE_CHECKING:
    from shared_model.protocol import StudyProtocol

Clipping = Literal["flat", "automatic", "per_layer"]
AccountantName = Literal["prv", "rdp"]
SECURE_SUM_NORM = 1e6  # largest federation.max_update_norm with room for three binary places in 64 bits at 200 sites
Above = Annotated[float, Field(gt=0.0)]


class DifferentialPrivacy(Strict):
    """DP-SGD with the training patient as the unit: all views of a patient form one clipped gradient.

    ``epsilon`` is what the study would like to spend at a site, a ceiling; each site spends at most what is left of its own
    limit, at its own delta, and computes its own noise. ``clipping``: ``flat`` scales a longer gradient to ``clip_norm``,
    ``automatic`` brings every gradient near it (Bu et al. 2023), so that where one outcome is rarer its patients count for
    less than their errors; ``per_layer`` clips each tensor to its equal share.
    ``augmentation_multiplicity`` copies of a patient, each changed at random, are averaged before clipping (De et al. 2022).
    ``ema`` is the decay of the mean of a round's weights that is sent in place of the last ones. Of the patients drawn for
    a step, ``physical_batch`` are computed at a time.
    """

    epsilon: Above
    accountant: AccountantName = "prv"
    clipping: Clipping = "flat"
    clip_norm: Above = 1.0
    augmentation_multiplicity: int = Field(default=1, ge=1, le=64)
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    physical_batch: int = Field(default=32, ge=1, le=4096)


class Privacy(Strict):
    """``trainable``: with ``fusion_and_head`` the image encoder (in ``late_fusion`` all of the pictures' network but its head)
    keeps its first weights, random or pretrained, and does not travel. ``dp`` absent: no differential privacy.
    ``secure_sum``: the center learns the sum of the sites' updates and summaries, and those of no single site."""

    trainable: Literal["all", "fusion_and_head"] = "all"
    dp: DifferentialPrivacy | None = None
    secure_sum: bool = False


def conflict(protocol: "StudyProtocol") -> str | None:
    """Why ``[privacy]`` does not go together with the rest of ``protocol``, with the remedy; None if it does."""
    if protocol.privacy.trainable == "fusion_and_head" and protocol.network.kind not in PICTURED:
        return f'network "{protocol.network.kind}" has no image encoder to freeze || use privacy.trainable = "all"'
    if protocol.privacy.secure_sum and (problem := _conflict_with_secure_sum(protocol)):
        return problem
    return None if protocol.privacy.dp is None else _conflict_with_dp(protocol, protocol.privacy.dp)


def _conflict_with_secure_sum(protocol: "StudyProtocol") -> str | None:
    rule, limit = protocol.federation.aggregation.kind, protocol.federation.max_update_norm
    if rule != "weighted_mean":
        return (
            f'aggregation "{rule}" compares the updates of single sites, which a secure sum hides'
            ' || use aggregation "weighted_mean", or remove privacy.secure_sum'
        )
    if limit > SECURE_SUM_NORM:
        return (
            f"numbers up to federation.max_update_norm = {limit:g} do not fit a secure sum"
            f" || set it to {SECURE_SUM_NORM:g} or less, or remove privacy.secure_sum"
        )
    return None


def _conflict_with_dp(protocol: "StudyProtocol", dp: DifferentialPrivacy) -> str | None:
    training, network, rule = protocol.training, protocol.network, protocol.federation.client_rule
    if rule.kind == "ditto":
        return (
            "Ditto trains a second model on every patient, which is not accounted for with privacy.dp"
            " || use another client_rule, or remove [privacy.dp]"
        )
    if rule.kind == "scaffold" and dp.ema is not None:
        return "SCAFFOLD's control variates follow from the last weights, not from their mean || remove privacy.dp.ema"
    if training.class_weighting != "none":
        return "balanced class weights tell of patients' outcomes || remove training.class_weighting, or [privacy.dp]"
    if training.gradient_clip is not None:
        return "with privacy.dp each patient's gradient is clipped || remove training.gradient_clip; see privacy.dp.clip_norm"
    if training.compile:
        return "gradients of single patients cannot be had of a compiled network || remove training.compile, or [privacy.dp]"
    changes = training.augmentation.model_dump() if protocol.images else {}
    if dp.augmentation_multiplicity > 1 and not (any(changes.values()) or network.dropout or network.modality_dropout):
        return (
            "copies of a patient that nothing changes are one || add training.augmentation, or remove augmentation_multiplicity"
        )
    return None
