"""The system user that Postgres runs as when we are root: it refuses to run as root itself."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

from mqadmin.supervisor.home import CannotContinueError
from mqadmin.supervisor.processes import Account

if TYPE_CHECKING:
    from pathlib import Path

NAME = "mqadmin-postgres"


def postgres_account() -> Account | None:
    """Return the user to run Postgres as, made on first use; None when we are not root and run it ourselves.

    A user of its own and not the distribution's `postgres`: that one owns the machine's databases, which are none of our business.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        _create()
        entry = pwd.getpwnam(NAME)
    return Account(NAME, entry.pw_uid, entry.pw_gid)


def _create() -> None:
    useradd = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if useradd is None:
        raise CannotContinueError(
            f"Postgres cannot run as root, and `useradd` is missing to make the user {NAME} for it.\n"
            "Make that user, or run mqadmin as an ordinary user."
        )
    done = subprocess.run(  # noqa: S603
        [
            useradd,
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            "--comment",
            "mqadmin",
            NAME,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 9}:  # 9: another copy was faster
        raise CannotContinueError(f"The user {NAME} that Postgres needs could not be made: {done.stderr.strip()}")


def can_work_in(account: Account, directory: Path) -> bool:
    """Tell whether that user gets into the directory, through all its parents."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.chdir(directory)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
