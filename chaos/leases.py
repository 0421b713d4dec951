"""Prefect's lease storage on disk, which kills its server in the middle of a lock when told to.

A server keeps a lock's slot in its database and the lease in its lease storage, which is a module
that a setting names. This one is the usual one, until a file in its folder names one of the
windows: the first lock that comes to it then dies there with the whole server, as by `kill -9`.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from uuid import UUID

from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata, filesystem
from prefect.server.utilities.leasing import ResourceLease

from chaos.windows import order


class ConcurrencyLeaseStorage(filesystem.ConcurrencyLeaseStorage):
    """Leases on disk, with three places to die at."""

    async def create_lease(
        self,
        resource_ids: list[UUID],
        ttl: timedelta,
        metadata: ConcurrencyLimitLeaseMetadata | None = None,
    ) -> ResourceLease[ConcurrencyLimitLeaseMetadata]:
        """Write a lease; the slot has been taken."""
        self._reached("taken")
        return await super().create_lease(resource_ids, ttl, metadata)

    async def _update_expiration_index(self, lease_id: UUID, expiration: datetime) -> None:
        self._reached("unlisted")
        await super()._update_expiration_index(lease_id, expiration)

    async def revoke_lease(self, lease_id: UUID) -> None:
        """Remove a lease; where it ran out, inside the transaction that gives back the slot."""
        await super().revoke_lease(lease_id)
        self._reached("run out")

    def _reached(self, window: str) -> None:
        told = order(self.storage_path)
        if told.exists() and told.read_text(encoding="utf-8") == window:
            told.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
