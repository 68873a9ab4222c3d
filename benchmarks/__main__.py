"""`make bench`: every benchmark in turn, each beside its floor in the same run, as a table of ratios.

Absolute times mean little on a shared machine; the ratio of two measurements of one run means something. Arguments name the benchmarks;
some take arguments of their own: `spiral=600,ours`.
"""

import importlib
import os
import sys

import django
from django.core.management import call_command

NAMES = ("publication", "store", "rest")
LARGE = (
    "console",
    "fleet",
    "footprint",
    "imports",
    "metadata",
    "peers",
    "registry",
    "scale",
    "sdk_send",
    "sdk_consume",
    "spiral",
    "tree",
)  # only by name: they fill a large data set, or install other software


def main(names: list[str]) -> int:
    """Run the named benchmarks, all by default, and print a Markdown table."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    asked = [name.partition("=")[::2] for name in names or NAMES]
    unknown = {name for name, _arguments in asked} - {*NAMES, *LARGE}
    if unknown:
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join((*NAMES, *LARGE))}.", file=sys.stderr)
        return 2
    rows = []
    for name, arguments in asked:
        print(f"running {name} …", flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").run(*arguments.split(",") if arguments else ())
    print("\n| benchmark | measured | floor | unit | ratio | |\n|---|---:|---:|---|---:|---|")
    for row in rows:
        print(f"| {row.name} | {row.measured:,.3g} | {row.floor:,.3g} | {row.unit} | **{row.ratio:.3g}** | {row.note} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
