"""Local training at one site."""
