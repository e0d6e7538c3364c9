"""A synthetic hospital with known truth: patients, ultrasound, and files as a real site would export them."""

from client.synthetic.export import synthesize
from client.synthetic.hospitals import EXPORTS, HOSPITALS, SCANNERS
from client.synthetic.truth import Ceilings, ceilings, describe_truth

__all__ = ["EXPORTS", "HOSPITALS", "SCANNERS", "Ceilings", "ceilings", "describe_truth", "synthesize"]
