"""Entry point of `python3 -m mqadmin.supervisor`: finds a Python that is new enough, then runs the verb."""

import os
import shutil
import sys

OLDEST = (3, 11)


def main():  # type: () -> int  # noqa: ANN201
    """Run the verb, in a newer Python if this one is too old (so nothing newer than Python 3.6 stands in this file)."""
    if sys.version_info < OLDEST:
        for minor in range(20, OLDEST[1] - 1, -1):
            newer = shutil.which("python3.%d" % minor)  # noqa: UP031
            if newer:
                os.execv(newer, [newer, "-m", "mqadmin.supervisor"] + sys.argv[1:])  # noqa: RUF005, S606
        sys.stderr.write("mqadmin needs Python %d.%d or newer; this is Python %d.%d.\n" % (OLDEST + tuple(sys.version_info[:2])))  # noqa: UP031
        return 1
    if not sys.platform.startswith("linux"):
        sys.stderr.write("mqadmin runs on Linux only: it relies on /proc and on death signals.\n")
        return 1
    from mqadmin.supervisor.commands import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
