"""Selects the system account that runs a job. A lookup may ask a directory server: use a thread."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from ..base import LaunchRefused


@dataclass(frozen=True, slots=True)
class Account:
    """A system account; ``is_users_own`` says that it belongs to the hub user, and others do not share it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str
    is_users_own: bool

    @classmethod
    def _from_entry(cls, entry: pwd.struct_passwd, *, is_users_own: bool) -> Account:
        return cls(
            name=entry.pw_name,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            groups=tuple(sorted(set(os.getgrouplist(entry.pw_name, entry.pw_gid)))),
            home=entry.pw_dir,
            shell=entry.pw_shell,
            is_users_own=is_users_own,
        )


def get_account(user: str, *, fallback: str, min_uid: int) -> Account:
    """Return the account that runs a hub user's jobs.

    If the service is not root, it is the service's own account. Root uses the account with the hub user's
    name if its id is ``min_uid`` or more (so that a hub user "postgres" does not get the database's), else
    ``fallback``; never root. Raises LaunchRefused if that leaves no account.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        return Account._from_entry(own, is_users_own=own.pw_name == user)
    entry = find_entry(user)
    if entry and entry.pw_uid != 0 and entry.pw_uid >= min_uid:
        return Account._from_entry(entry, is_users_own=True)
    entry = find_entry(fallback)
    if entry is None or entry.pw_uid == 0:
        why = "is root" if entry else "does not exist"
        raise LaunchRefused(
            "NoAccount",
            f"No system account can run the job: {user!r} has none, and {fallback!r} {why}. "
            "An admin must set LocalProcessJobLauncher.user.",
        )
    return Account._from_entry(entry, is_users_own=False)


def find_entry(name: str) -> pwd.struct_passwd | None:
    """Return the entry of the account with exactly that name, or None."""
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in it
        return None
    return entry if entry.pw_name == name else None


def has_home(account: Account) -> bool:
    """Return whether the account's home folder belongs to the account, and is writable for it."""
    try:
        info = os.stat(account.home)
    except OSError:
        return False
    is_own = info.st_uid == account.uid and bool(info.st_mode & stat.S_IWUSR)
    return account.is_users_own and stat.S_ISDIR(info.st_mode) and is_own


def find_barrier(path: Path, account: Account) -> Path | None:
    """Return the first folder on the way down to ``path`` that the account cannot enter, or None."""
    for folder in (*reversed(path.parents), path):
        info = folder.stat()
        if info.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif info.st_gid in account.groups:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not info.st_mode & bit:
            return folder
    return None
