"""Watching runs while they run: one view of a run for the terminal and for the live web page, and the page itself."""
