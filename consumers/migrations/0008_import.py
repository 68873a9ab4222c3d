"""The permission to import without a second person."""

from django.db import migrations


class Migration(migrations.Migration):
    """A permission only: no table changes."""

    dependencies = [("consumers", "0007_balance")]

    operations = [
        migrations.AlterModelOptions(
            name="consumergroup",
            options={
                "ordering": ["name"],
                "permissions": [
                    ("approve_consumergroup", "Can approve and reject consumer groups"),
                    ("suspend_consumergroup", "Can suspend and resume consumer groups"),
                    ("retire_consumergroup", "Can retire consumer groups"),
                    ("import_consumergroup", "Can import clusters, topics and consumer groups without a second person"),
                ],
                "verbose_name": "consumer group",
                "verbose_name_plural": "consumer groups",
            },
        )
    ]
