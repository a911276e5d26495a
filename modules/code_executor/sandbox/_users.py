"""Unprivileged users for jails, one each, where we are root: so that no run shares a user with another one."""

import os
import socket
import threading

from ._model import SandboxError

FIRST_UID = 60000
UIDS = 1000


class Users:
    """Hands out user ids that no other jail of this machine has now, and 0, "ours", where we are not root.

    A user is leased by an abstract socket of its name: it is unique over all processes of the machine, and the kernel
    lets go of it however we end.

    Args:
        also_as_user: Hand out ids where we are not root as well: somebody else will become them.
    """

    def __init__(self, *, also_as_user: bool = False) -> None:
        self._active = also_as_user or os.geteuid() == 0
        self._leases: dict[int, socket.socket] = {}
        self._lock = threading.Lock()

    def take(self) -> int:
        """Lease a user.

        Raises:
            SandboxError: All are taken.
        """
        if not self._active:
            return 0
        with self._lock:
            for uid in range(FIRST_UID, FIRST_UID + UIDS):
                if uid in self._leases:
                    continue
                try:
                    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                except OSError as error:
                    raise SandboxError(f"A user for a jail could not be leased: {error.strerror}.") from error
                try:
                    lease.bind(f"\0fissile-jail-user-{uid}")
                except OSError:
                    lease.close()
                    continue
                self._leases[uid] = lease
                return uid
        raise SandboxError(f"All users from {FIRST_UID} on are taken by jails. Wait for runs to end.")

    def give_back(self, uid: int) -> None:
        """Let another jail be this user: nothing of the last one is left."""
        with self._lock:
            lease = self._leases.pop(uid, None)
        if lease is not None:
            lease.close()

    def close(self) -> None:
        """Give back all."""
        for uid in list(self._leases):
            self.give_back(uid)
