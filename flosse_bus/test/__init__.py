"""The contract of a backend as a test class: subclass it, override ``make_backend``, run pytest.

    class TestMyBackend(BackendContract):
        def make_backend(self, config):
            return MyBackend(config, url="...")

Each test gets a backend of its own whose log nobody else writes to. Override ``cut`` too if there
are connections that can break, and ``another`` if several objects can have the same log. Set
``forgets_by_class`` if snapshots have a ``forgotten_by``.
"""

from __future__ import annotations

from .base import ContractBase, Inbox, item, wait_until
from .batches import BatchContract
from .bounds import BoundsContract
from .forgetting import ForgettingContract
from .listening import ListeningContract
from .log import LogContract
from .streams import StreamContract
from .writers import WriterContract

__all__ = ["BackendContract", "ContractBase", "Inbox", "item", "wait_until"]


class BackendContract(
    LogContract,
    BatchContract,
    BoundsContract,
    ForgettingContract,
    ListeningContract,
    WriterContract,
    StreamContract,
):
    """What every backend promises. See :mod:`flosse_bus.backends.base`."""
