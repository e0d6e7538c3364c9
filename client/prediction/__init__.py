"""``consilium-site predict``: what a study's model says of one patient, for the hospital that the patient is at."""
