"""A synthetic hospital with known truth: patients, ultrasound, and files as a real site would export them."""

from client.synthetic.export import synthesize
from client.synthetic.hospitals import HOSPITALS, PROFILES, SCANNERS
from client.synthetic.truth import Ceilings, ceilings, describe_truth

__all__ = ["HOSPITALS", "PROFILES", "SCANNERS", "Ceilings", "ceilings", "describe_truth", "synthesize"]
