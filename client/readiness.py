"""What a worker says of itself at its start, for whoever reads its log: keys of ``site.toml``, nothing of what files hold."""

from collections.abc import Iterator
from pathlib import Path

from client.cohort.load import open_tables
from client.governance.approval import Approvals
from client.site_config import read_site
from client.state import lasting
from shared_model.errors import CohortError, ConfigurationError


def shortcomings(config_path: Path, *, state: Path) -> Iterator[str]:
    """Why requests would be refused as things are: data that cannot be read, and nothing approved. Neither keeps a worker from
    starting, for both may be mended while it runs.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    config = read_site(config_path)
    try:
        open_tables(config, None, config_path)
    except (CohortError, ConfigurationError) as error:
        yield f"the data cannot be read as {config_path} says: {places(error)} {config_path} tells what"
    approvals = Approvals(lasting(state, config.site.name))
    if all(approval.revoked_at is not None for approval in approvals.all()):
        yield f"no study is approved: consilium-site approve STUDY.toml --site {config_path} --state {state}"


def places(error: CohortError | ConfigurationError) -> str:
    """Which keys are at fault, without what was found there: that may be a name, and a log is read by others."""
    keys = ", ".join(dict.fromkeys(fault.key or Path(fault.where).name for fault in error.faults))
    return f"{len(error.faults)} to mend at {keys}; consilium-site check"
