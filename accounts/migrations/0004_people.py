"""Call users people, as the console does."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("accounts", "0003_roles_tokens_keys_sessions")]

    operations = [
        migrations.AlterModelOptions(
            name="user",
            options={
                "permissions": [("administer_user", "Can administer people, roles, and tokens, sessions and lockouts of others")],
                "verbose_name": "person",
                "verbose_name_plural": "people",
            },
        )
    ]
