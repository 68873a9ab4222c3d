"""Make the administrator and a second person, so that four-eyes approval can be tried at once."""

import os
import secrets
import shlex
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiToken, User
from accounts.roles import OPERATOR
from accounts.rolesync import group_of


class Command(BaseCommand):
    help = "Make the administrator and a second person with random passwords and API tokens, written once to a 0600 file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--file", type=Path, required=True, help="where the credentials go (mode 0600); nothing is changed if it is there"
        )
        parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the web process, kept in the file")

    def handle(self, *_args: Any, file: Path, url: str, **_options: Any) -> None:
        if file.exists():
            self.stdout.write(f"Credentials are in {file}.")
            return
        # The file is complete before the accounts are committed: a crash in between leaves neither or both.
        with transaction.atomic():
            lines = [f"MQADMIN_URL={shlex.quote(url)}"]
            lines += self._person("admin", "ADMIN", superuser=True)
            lines += self._person("operator", "OPERATOR", superuser=False)
            draft = file.with_suffix(".part")
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(
                    "# Made by create_people; for `. FILE` in a shell. Change the passwords in the console.\n" + "\n".join(lines) + "\n"
                )
        draft.replace(file)
        self.stdout.write(f"Made the people admin and operator; their credentials are in {file}.")

    def _person(self, name: str, label: str, *, superuser: bool) -> list[str]:
        password = secrets.token_urlsafe(12)
        user, _made = User.objects.get_or_create(username=name)
        user.is_staff, user.is_superuser, user.is_active = True, superuser, True
        user.set_password(password)
        user.save()
        if not superuser:
            user.groups.add(group_of(OPERATOR))
        user.api_tokens.filter(name="quick start").delete()
        _token, secret = ApiToken.issue(user=user, name="quick start", expires_at=timezone.now() + timedelta(days=90))
        return [f"MQADMIN_{label}_USER={name}", f"MQADMIN_{label}_PASSWORD={password}", f"MQADMIN_{label}_TOKEN={secret}"]
