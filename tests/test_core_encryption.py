"""Sealed fields: the database holds no text, nothing shows it, keys rotate while others write."""

import copy
import io
import pickle

import pytest
from cryptography.fernet import Fernet
from django.apps import apps
from django.core import checks, serializers
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection, models

from core import rotation
from core.encryption import CannotDecryptError, EncryptedTextField, Secret, is_newest, seal, unseal

OLD, NEW, STRANGE = (Fernet.generate_key().decode() for _ in range(3))


@pytest.fixture
def vault(db):
    """A table with an encrypted column, of an installed application."""

    class Vault(models.Model):
        name = models.CharField(max_length=20, blank=True)
        secret = EncryptedTextField(null=True, blank=True)

        class Meta:
            app_label = "core"

    with connection.schema_editor() as editor:
        editor.create_model(Vault)
    yield Vault
    del apps.all_models["core"]["vault"]
    apps.clear_cache()


@pytest.fixture(autouse=True)
def keys(settings):
    settings.ENCRYPTION_KEYS = [OLD]


def stored(row):
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM core_vault WHERE id = %s", [row.pk])
        return cursor.fetchone()[0]


def test_what_is_stored_is_sealed_and_what_is_read_is_the_text(vault):
    row = vault.objects.create(secret="hünter2 密")
    assert "nter2" not in stored(row)
    assert vault.objects.get().secret.reveal() == "hünter2 密"


def test_none_and_empty_are_no_secrets(vault):
    none, empty = vault.objects.create(), vault.objects.create(secret="")
    assert (stored(none), stored(empty)) == (None, "")
    assert vault.objects.get(pk=none.pk).secret is None
    read = vault.objects.get(pk=empty.pk).secret
    assert not read
    assert (read.reveal(), str(read)) == ("", "")


def test_it_does_not_show_itself(vault):
    row = vault.objects.create(secret="hunter2")
    for secret in (row.secret, vault.objects.get().secret):
        shown = f"{secret} {secret!r} {vars(row)!r} {[secret]}"
        assert "hunter2" not in shown
        assert "••••" in shown
        with pytest.raises(TypeError):
            pickle.dumps(secret)
        assert copy.deepcopy(secret).reveal() == "hunter2"


def test_saving_what_was_not_changed_keeps_it_as_it_is(vault):
    row = vault.objects.create(secret="x")
    before = stored(row)
    read = vault.objects.get()
    read.name = "other"
    read.save()
    assert stored(row) == before


def test_update_and_bulk_create_seal_too(vault):
    vault.objects.bulk_create([vault(secret="one"), vault(secret="two")])
    assert sorted(row.secret.reveal() for row in vault.objects.all()) == ["one", "two"]
    vault.objects.update(secret="three")
    assert {row.secret.reveal() for row in vault.objects.all()} == {"three"}
    assert "three" not in stored(vault.objects.first())


def test_it_cannot_be_searched(vault):
    vault.objects.create(secret="x")
    for lookup in ("secret", "secret__icontains", "secret__in"):
        with pytest.raises(FieldError):
            list(vault.objects.filter(**{lookup: "x"}))
    assert vault.objects.filter(secret__isnull=False).count() == 1


def test_no_form_is_made_of_it(vault):
    from django.forms import modelform_factory

    assert list(modelform_factory(vault, fields="__all__").base_fields) == ["name"]


def test_a_dump_is_sealed_and_can_be_loaded(vault):
    vault.objects.create(secret="hunter2")
    dump = serializers.serialize("json", vault.objects.all())
    assert "hunter2" not in dump
    vault.objects.all().delete()
    for loaded in serializers.deserialize("json", dump):
        loaded.save()
    assert vault.objects.get().secret.reveal() == "hunter2"


def test_a_value_that_no_key_opens_names_the_setting_and_not_the_value(vault, settings):
    vault.objects.create(secret="hunter2")
    settings.ENCRYPTION_KEYS = [STRANGE]
    read = vault.objects.get().secret  # a list of it still works
    with pytest.raises(CannotDecryptError, match="MQADMIN_ENCRYPTION_KEYS") as caught:
        read.reveal()
    assert "hunter2" not in str(caught.value)
    assert read.sealed() not in str(caught.value)


def test_the_first_key_seals_and_all_keys_open(settings):
    token = seal("x")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    assert unseal(token) == "x"
    assert not is_newest(token)
    assert is_newest(seal("x"))


def test_without_keys_nothing_is_stored_and_the_check_says_how(settings):
    settings.ENCRYPTION_KEYS = []
    with pytest.raises(ImproperlyConfigured, match="MQADMIN_ENCRYPTION_KEYS"):
        seal("x")
    found = [m for m in checks.run_checks() if m.id == "mqadmin.E001"]
    assert len(found) == 1
    assert "rotate_encryption_keys --new-key" in found[0].hint


def test_a_bad_key_is_refused_without_being_shown(settings):
    settings.ENCRYPTION_KEYS = [OLD, "too-short-to-be-a-key"]
    with pytest.raises(ImproperlyConfigured) as caught:
        seal("x")
    assert "too-short" not in str(caught.value)
    assert [m.id for m in checks.run_checks() if m.id.startswith("mqadmin.E00")] == ["mqadmin.E002"]


def test_a_derived_key_is_warned_of(settings):
    settings.ENCRYPTION_KEYS_DERIVED = True
    assert "mqadmin.W001" in [m.id for m in checks.run_checks()]


# --- rotation -----------------------------------------------------------------------------------------------------------


def run(**options):
    out = io.StringIO()
    call_command("rotate_encryption_keys", stdout=out, **options)
    return out.getvalue()


def test_rotation_seals_all_anew_in_chunks_and_says_what_it_did(vault, settings):
    for i in range(7):
        vault.objects.create(secret=f"secret {i}")
    vault.objects.create()
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    vault.objects.create(secret="already new")
    assert "core.Vault.secret: 7 sealed anew, 1 already were, 0 changed meanwhile, 0 that no key opens" in run(chunk=3)
    assert "core.Vault.secret: 0 sealed anew, 8 already were" in run(chunk=3)
    settings.ENCRYPTION_KEYS = [NEW]
    assert {r.secret.reveal() for r in vault.objects.filter(secret__isnull=False)} == {*(f"secret {i}" for i in range(7)), "already new"}


def test_rotation_goes_on_where_it_was_killed(vault, settings, monkeypatch):
    for i in range(5):
        vault.objects.create(secret=f"secret {i}")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    real, left = rotation.seal, [None, None]

    def dies(text):
        left.pop()  # IndexError at the third
        return real(text)

    monkeypatch.setattr(rotation, "seal", dies)
    with pytest.raises(IndexError):
        run(chunk=2)
    monkeypatch.setattr(rotation, "seal", real)
    assert "3 sealed anew, 2 already were" in run(chunk=2)


def test_rotation_does_not_undo_what_somebody_writes_meanwhile(vault, settings, monkeypatch):
    row = vault.objects.create(secret="before")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    real = rotation.unseal

    def slow(token):
        vault.objects.filter(pk=row.pk).update(secret="written meanwhile")
        return real(token)

    monkeypatch.setattr(rotation, "unseal", slow)
    assert "0 sealed anew, 0 already were, 1 changed meanwhile" in run()
    assert vault.objects.get().secret.reveal() == "written meanwhile"


def test_rotation_reports_what_no_key_opens_and_does_the_rest(vault, settings):
    settings.ENCRYPTION_KEYS = [STRANGE]
    lost = vault.objects.create(secret="lost")
    settings.ENCRYPTION_KEYS = [OLD]
    vault.objects.create(secret="found")
    before = stored(lost)
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    with pytest.raises(CommandError, match="MQADMIN_ENCRYPTION_KEYS"):
        run()
    assert stored(lost) == before
    settings.ENCRYPTION_KEYS = [NEW]
    assert vault.objects.exclude(pk=lost.pk).get().secret.reveal() == "found"


def test_a_new_key_is_printed_and_works(settings):
    settings.ENCRYPTION_KEYS = [run(new_key=True).strip()]
    assert Secret.from_sealed(Secret("x").sealed()).reveal() == "x"
