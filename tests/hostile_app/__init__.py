"""An app that a hostile center ships to its hospitals: code that looks for patients, and for a way out."""
