"""Prepares the database for this version of the code, in one process of the virtual environment: checks, migrations, people."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the steps in order; any failure ends the process with a traceback, which the supervisor shows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--credentials", required=True)
    arguments = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")

    import django
    from django.core.management import call_command

    django.setup()
    # What would lose messages is refused before anything stands in the database; a service that is away now may be there soon.
    call_command("check", tags=["database"], databases=["default"], deploy=True)
    call_command("check", tags=["services"], databases=["default"], deploy=True, fail_level="CRITICAL")
    call_command("migrate", interactive=False, verbosity=1, skip_checks=True)
    from django.contrib.auth import get_user_model

    credentials = Path(arguments.credentials)
    if credentials.exists() and not get_user_model().objects.exists():  # another database than the one they were made for
        credentials.replace(credentials.with_name(f"{credentials.name}.before"))
    call_command("create_people", file=credentials)
    uncompiled = [path for path in (CHECKOUT / "locale").glob("*/LC_MESSAGES/*.po") if not path.with_suffix(".mo").exists()]
    if uncompiled:
        call_command("compilemessages", verbosity=0, locale=sorted({path.parents[1].name for path in uncompiled}))


if __name__ == "__main__":
    main()
