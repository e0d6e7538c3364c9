"""Files by which the ServerApp and the command that waits for it know of each other, in the run directory."""

CONDUCTING = ".conducting"  # locked while a ServerApp is at work
AT_WORK = "serverapp.json"  # which of Flower's runs that was last
