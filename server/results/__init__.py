"""From a run's record to ``results.json``, ``per_site.csv``, the report and its figures."""

from server.results.document import SCHEMA_VERSION, assemble
from server.results.files import write_results

__all__ = ["SCHEMA_VERSION", "assemble", "write_results"]
