"""Install Debian packages without letting them start services or create database clusters; runs as root, as a script."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = Path("/run/mqadmin-apt.lock")
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_ASIDE = Path("/usr/sbin/policy-rc.d.before-mqadmin")
POLICY_TEXT = "#!/bin/sh\n# Put here by mqadmin while it installs packages: no service is started meanwhile.\nexit 101\n"
CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")
CLUSTERS_ASIDE = Path("/etc/postgresql-common/createcluster.conf.before-mqadmin")
CLUSTERS_LINE = "\ncreate_main_cluster = false\n"


def apt_get(*arguments: str) -> int:
    """Run apt-get without questions; return its exit status."""
    command = [
        "apt-get",
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "Dpkg::Options::=--force-confold",
        *arguments,
    ]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603


def install(*packages: str) -> None:
    """Install packages; repair an interrupted dpkg once; leave the program when that fails too."""
    arguments = ("install", "--no-install-recommends", *packages)
    if apt_get(*arguments) != 0:
        subprocess.run(["dpkg", "--configure", "-a"], stdin=subprocess.DEVNULL, check=False)  # noqa: S607
        status = apt_get(*arguments)
        if status != 0:
            sys.exit(status)


def restore() -> None:
    """Put the machine's own files back, those of an interrupted run too."""
    if POLICY_ASIDE.exists():
        POLICY_ASIDE.replace(POLICY)
    elif POLICY.exists() and POLICY.read_text(errors="replace") == POLICY_TEXT:
        POLICY.unlink()
    if CLUSTERS_ASIDE.exists():
        CLUSTERS_ASIDE.replace(CLUSTERS)


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Have invoke-rc.d refuse to start anything (Debian's switch for it) while the block runs."""
    if POLICY.exists():
        POLICY.replace(POLICY_ASIDE)
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        restore()


def no_cluster() -> None:
    """Have postgresql-common create no cluster with the server that is installed next; `restore` takes it back."""
    if CLUSTERS.exists():
        text = CLUSTERS.read_text()
        CLUSTERS_ASIDE.write_text(text)
        CLUSTERS_ASIDE.chmod(CLUSTERS.stat().st_mode & 0o777)
        CLUSTERS.write_text(text + CLUSTERS_LINE)


def main(packages: list[str]) -> None:
    """Refresh the lists and install."""
    # An interrupt must not leave a half-configured package or our switches behind: finish the package step, then end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # another copy may be at it, and `restore` would take its switches away
    restore()
    if apt_get("update") != 0:
        sys.stdout.write("apt-get update failed; trying with the lists that are there\n")
        sys.stdout.flush()
    Path("/usr/share/man/man1").mkdir(parents=True, exist_ok=True)  # slim images lack it, and Java's alternatives want it
    with no_services():
        if "postgresql" in packages:
            install("postgresql-common")
            no_cluster()
        install(*packages)


if __name__ == "__main__":
    main(sys.argv[1:])
