"""The card as one HTML page with nothing to load, made for one sheet of A4."""

from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, select_autoescape

from client.prediction import words
from client.prediction.card import Card
from client.prediction.model_file import Model


def render(card: Card, model: Model, *, today: date) -> str:
    """The page of ``card``."""
    environment = Environment(
        autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"chance": words.chance, "odds": words.odds}
    folder = files("client.prediction")
    template = environment.from_string(folder.joinpath("card.html").read_text(encoding="utf-8"))
    return template.render(
        card=card,
        model=model,
        study=model.protocol.study,
        protocol_sha256=model.protocol.sha256,
        sentence=words.sentence(list(card.findings)),
        css=folder.joinpath("card.css").read_text(encoding="utf-8"),
        printed=today.isoformat(),
        version=_version(),
    )


def _version() -> str:
    try:
        return version("consilium")
    except PackageNotFoundError:
        return "(not installed)"
