"""Methods: the network, its training at a site, and how sites trained together."""

from collections.abc import Iterator
from typing import Any

from server.report.prose.part import Part, part
from server.report.wording import count, listing
from shared_model.protocol import Federation, Network, StudyProtocol, Training
from shared_model.protocol_words import PICTURED

Json = dict[str, Any]

_ENCODERS = {
    "small": "a small residual convolutional network",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "convnext_tiny": "ConvNeXt-Tiny",
    "efficientnet_b0": "EfficientNet-B0",
    "vit_b_16": "ViT-B/16",
}
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "stochastic gradient descent"}
_CLIENT_RULES = {
    "fedprox": "local training was pulled towards the received model (FedProx, Li et al. 2020, μ = {:g})",
    "scaffold": "local gradients were corrected by control variates (SCAFFOLD, Karimireddy et al. 2020)",
    "ditto": "each site also trained a model of its own, pulled towards the shared one (Ditto, Li et al. 2021, λ = {:g})",
}
_AGGREGATIONS = {
    "weighted_mean": "the mean of the updates, weighted by training patients",
    "median": "the coordinate-wise median of the updates",
    "trimmed_mean": "the coordinate-wise trimmed mean of the updates, without the {} largest and smallest",
    "krum": "the update nearest to the others (Krum, Blanchard et al. 2017, for at most {} hostile sites)",
}
_SERVER_OPTIMIZERS = {"adam": "FedAdam", "yogi": "FedYogi", "adagrad": "FedAdagrad"}
_PERSONAL = {"norm": "normalisation layers (FedBN)", "head": "the last layer (FedPer)"}


def network(protocol: StudyProtocol, document: Json) -> Part:
    """What kind of model it is."""
    described = {
        "multimodal": _multimodal,
        "image_only": _image_only,
        "clinical_only": _clinical_only,
        "logistic": _logistic,
        "late_fusion": _late_fusion,
    }[protocol.network.kind](protocol.network)
    pretrained = protocol.network.pretrained
    start = kept = None
    late = protocol.network.kind == "late_fusion"
    pictures = "The network of pictures" if late else "The picture encoder"
    if protocol.images and protocol.network.kind in PICTURED:
        start = (
            f"{pictures} started from pretrained weights (SHA-256 {pretrained.sha256[:12]}…)."
            if pretrained
            else "All parameters started from random values that the run's seed fixes."
        )
        if protocol.privacy.trainable == "fusion_and_head":
            kept = f"{pictures} was not trained further{', but for its last layer' if late else ''}."
    return part("Model", described, start, kept, "Its output is the probability of the outcome.")


def _multimodal(network: Network) -> str:
    return (
        f"The network follows the multimodal design of Shen et al. (Nat Commun 2025;16:7052): each picture passes "
        f"{_ENCODERS[network.encoder]} and becomes {network.image_grid}×{network.image_grid} tokens, each variable becomes one "
        f"token ({network.width} numbers a token); {count(network.bidirectional_blocks, 'block')} of attention in both "
        f"directions between pictures and variables ({network.heads} heads) and {count(network.joint_blocks, 'block')} over "
        "all "
        "tokens together lead to one linear output."
    )


def _image_only(network: Network) -> str:
    return (
        f"Each picture passes {_ENCODERS[network.encoder]} and becomes {network.image_grid}×{network.image_grid} tokens of "
        f"{network.width} numbers; {count(network.joint_blocks, 'block')} of attention ({network.heads} heads) over all of a "
        "patient's tokens lead to one linear output."
    )


def _clinical_only(network: Network) -> str:
    return (
        f"Each variable becomes a token of {network.width} numbers; {count(network.joint_blocks, 'block')} of attention "
        f"({network.heads} heads) over all tokens lead to one linear output."
    )


def _logistic(network: Network) -> str:
    return "The model was a logistic regression on the variables."


def _late_fusion(network: Network) -> str:
    return (
        f"{_image_only(network)} To the log odds that it gave, those of a logistic regression on the variables were added "
        "(late fusion)."
    )


def training(protocol: StudyProtocol, document: Json) -> Part:
    """Local training in a round."""
    chosen = protocol.training
    length = count(chosen.epochs, "epoch") if chosen.epochs else count(chosen.steps or 0, "step")
    return part(
        "Training at a site",
        f"In a round each site trained for {length} with {_OPTIMIZERS[chosen.optimizer]} (batches of {chosen.batch_size} "
        f"patients, {', '.join(_settings(chosen))}) on the binary cross-entropy.",
        "The two outcome classes were weighted to count equally, which shifts predicted probabilities towards one half."
        if chosen.class_weighting == "balanced"
        else "Outcome classes were not weighted.",
        _regularisation(protocol.network),
        _augmentation(chosen) if protocol.images else None,
    )


def _settings(chosen: Training) -> Iterator[str]:
    yield f"learning rate {chosen.lr:g}"
    if chosen.momentum:
        yield f"momentum {chosen.momentum:g}"
    if chosen.weight_decay:
        yield f"weight decay {chosen.weight_decay:g}"
    yield "cosine schedule over all rounds" if chosen.schedule == "cosine" else "held constant"
    if chosen.warmup_rounds:
        yield f"warm-up of {count(chosen.warmup_rounds, 'round')}"
    if chosen.gradient_clip:
        yield f"gradients clipped to norm {chosen.gradient_clip:g}"


def _regularisation(network: Network) -> str | None:
    return f"Dropout was {network.dropout:g}." if network.dropout and network.kind != "logistic" else None


def _augmentation(chosen: Training) -> str | None:
    kinds = {
        "mirroring": chosen.augmentation.flip,
        f"rotation up to {chosen.augmentation.rotate_degrees:g}°": chosen.augmentation.rotate_degrees,
        f"scale up to ±{100 * chosen.augmentation.scale:g}%": chosen.augmentation.scale,
        f"shift up to ±{100 * chosen.augmentation.shift:g}%": chosen.augmentation.shift,
        "brightness": chosen.augmentation.brightness,
        "contrast": chosen.augmentation.contrast,
        "gamma": chosen.augmentation.gamma,
        "noise": chosen.augmentation.noise,
    }
    used = [kind for kind, amount in kinds.items() if amount]
    return f"Pictures were varied at random: {listing(used)}." if used else None


def federation(protocol: StudyProtocol, document: Json) -> Part:
    """How the sites' training becomes one model."""
    chosen, run = protocol.federation, document["run"]
    rule = _CLIENT_RULES.get(chosen.client_rule.kind)
    return part(
        "Federated training",
        f"The sites trained one model together over {count(run['rounds'], 'round')} of at most {chosen.rounds}: in each the "
        "coordinating center sent the model, each site trained it on its own patients and returned the change of the "
        f"parameters, and the center took {_AGGREGATIONS[chosen.aggregation.kind].format(chosen.aggregation.byzantine)}, "
        f"{_server_step(chosen)}.",
        f"At the sites {rule.format(chosen.client_rule.strength)}." if rule else None,
        f"Kept at each site and not shared: {listing([_PERSONAL[name] for name in chosen.personal])}."
        if chosen.personal
        else None,
        f"A round counted when at least {100 * chosen.quorum:.0f}% of the enrolled sites had answered within "
        f"{chosen.deadline_s / 60:g} minutes; a reply with numbers that are not finite, of another shape, or with a norm above "
        f"{chosen.max_update_norm:g} was refused.",
        "The software was Consilium " + run["versions"].get("consilium", "") + _libraries(run["versions"]) + ".",
    )


def _server_step(chosen: Federation) -> str:
    optimizer = chosen.server_optimizer
    if optimizer.kind == "sgd":
        if optimizer.momentum:
            return f"with server momentum {optimizer.momentum:g} (FedAvgM)"
        return "which was added to the model (FedAvg)" if optimizer.lr == 1.0 else f"applied at server rate {optimizer.lr:g}"
    return f"applied by {_SERVER_OPTIMIZERS[optimizer.kind]} (Reddi et al. 2021) at rate {optimizer.lr:g}"


def _libraries(versions: dict[str, str]) -> str:
    known = [f"{label} {versions[name]}" for name, label in (("flwr", "Flower"), ("torch", "PyTorch")) if name in versions]
    return f" on {listing(known)}" if known else ""
