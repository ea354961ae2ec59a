"""The test suite."""

import os

#: Set by ``make torture``: try other seeds, and many of them.
TORTURE = bool(os.environ.get("FLOSSE_TORTURE"))
