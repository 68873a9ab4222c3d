"""Fields whose content is sealed in the database: stored credentials that mqadmin must be able to read again.

    class Webhook(models.Model):
        secret = EncryptedTextField(_("secret"))

    hook = Webhook.objects.create(secret="given by a person")   # sealed with the first of MQADMIN_ENCRYPTION_KEYS
    hook.secret            # a Secret: shows itself as •••••••• in pages, answers, logs and tracebacks
    hook.secret.reveal()   # the text, at the one place that needs it
    bool(hook.secret)      # whether there is one

Rooms register nothing: `rotate_encryption_keys` finds the fields by looking at the models. What only has to be recognised again
(passwords, tokens) is hashed instead and has no place here.
"""

from __future__ import annotations

import functools
from typing import Any, NoReturn

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.query_utils import DeferredAttribute

MASK = "••••••••"
SETTING = "MQADMIN_ENCRYPTION_KEYS"


class CannotDecryptError(Exception):
    """No key of MQADMIN_ENCRYPTION_KEYS opens a stored value: the key that sealed it is missing from the setting."""

    def __str__(self) -> str:
        return self.__doc__ or ""


def check_key(key: str) -> Fernet:
    """The key ready for use; ImproperlyConfigured, without showing it, if it is not 32 bytes in URL-safe base64."""
    try:
        return Fernet(key)
    except ValueError:
        raise ImproperlyConfigured(
            f"A key in {SETTING} is not 32 bytes in URL-safe base64. Make one: manage.py rotate_encryption_keys --new-key"
        ) from None


@functools.lru_cache(maxsize=8)
def _ring(keys: tuple[str, ...]) -> tuple[Fernet, MultiFernet]:
    if not keys:
        raise ImproperlyConfigured(f"Set {SETTING} (or {SETTING}_FILE) to store credentials; `make run` does it for you.")
    opened = [check_key(key) for key in keys]
    return opened[0], MultiFernet(opened)


def _keys() -> tuple[Fernet, MultiFernet]:
    return _ring(tuple(settings.ENCRYPTION_KEYS))


def seal(text: str) -> str:
    """The text, sealed with the first key."""
    return _keys()[0].encrypt(text.encode()).decode()


def unseal(token: str) -> str:
    """The text that was sealed with any of the keys; CannotDecryptError if it was with none of them."""
    try:
        return _keys()[1].decrypt(token).decode()
    except InvalidToken:
        raise CannotDecryptError from None


def is_newest(token: str) -> bool:
    """Whether the first key has sealed it."""
    try:
        _keys()[0].decrypt(token)
    except InvalidToken:
        return False
    return True


class Secret:
    """A text that does not show itself: sealed until `reveal()` is called, so that a list of a thousand opens none."""

    __slots__ = ("_plain", "_sealed")

    def __init__(self, plain: str) -> None:
        self._plain: str | None = plain
        self._sealed = ""

    @classmethod
    def from_sealed(cls, token: str) -> Secret:
        """What stands in the database."""
        made = cls("")
        if token:
            made._plain, made._sealed = None, token
        return made

    def reveal(self) -> str:
        """The text; CannotDecryptError if no key opens it."""
        return unseal(self._sealed) if self._plain is None else self._plain

    def sealed(self) -> str:
        """As the database keeps it; empty for no secret at all."""
        return self._sealed if self._plain is None else seal(self._plain) if self._plain else ""

    def __bool__(self) -> bool:
        return bool(self._sealed or self._plain)

    def __str__(self) -> str:
        return MASK if self else ""

    def __repr__(self) -> str:
        return f"<Secret {self}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not pickled: it would leave the process in the clear.")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: Any) -> Secret:
        return self


class _SecretAttribute(DeferredAttribute):
    """Hides a text the moment it is assigned, so that no debugger page or log of the object shows it before it is saved."""

    def __set__(self, instance: models.Model, value: object) -> None:
        instance.__dict__[self.field.attname] = Secret(value) if isinstance(value, str) else value


class EncryptedTextField(models.TextField[str | Secret, Secret]):
    """A text that is sealed in the database with the keys of MQADMIN_ENCRYPTION_KEYS; its value in Python is a `Secret`.

    It cannot be searched, sorted or edited in a generated form, and `dumpdata` writes it sealed.
    """

    descriptor_class = _SecretAttribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["editable"] = False
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        """As Django's migrations write it."""
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("editable", None)
        return name, path, args, kwargs

    def from_db_value(self, value: str | None, _expression: Any, _connection: Any) -> Secret | None:
        """Read from the database: still sealed."""
        return None if value is None else Secret.from_sealed(value)

    def to_python(self, value: Any) -> Any:
        """Read from a dump of `dumpdata`: sealed."""
        return Secret.from_sealed(value) if isinstance(value, str) else value

    def value_to_string(self, obj: models.Model) -> Any:
        """Write into a dump of `dumpdata`."""
        value = self.value_from_object(obj)
        return value.sealed() if isinstance(value, Secret) else value

    def get_prep_value(self, value: Any) -> Any:
        """Write to the database."""
        if value is None or hasattr(value, "resolve_expression"):
            return value
        return (value if isinstance(value, Secret) else Secret(str(value))).sealed()

    def get_lookup(self, lookup_name: str) -> Any:
        """Nothing but `isnull`: sealed twice, the same text is not the same value."""
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def get_transform(self, lookup_name: str) -> Any:  # noqa: ARG002 - Django's signature
        """None."""
        return None


def encrypted_fields() -> list[tuple[type[models.Model], EncryptedTextField]]:
    """Every encrypted column of the installed applications."""
    from django.apps import apps

    return [
        (model, field)
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy  # noqa: SLF001 - Django's public API
        for field in model._meta.local_concrete_fields  # noqa: SLF001
        if isinstance(field, EncryptedTextField)
    ]
