"""A synthetic hospital with known truth: patients, ultrasound, and files as a real site would export them."""
