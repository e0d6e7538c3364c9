"""A synthetic hospital with known truth: patients, ultrasound, and files as a real site would export them."""

from client.synthetic.export import synthesize
from client.synthetic.hospitals import HOSPITALS

__all__ = ["HOSPITALS", "synthesize"]
