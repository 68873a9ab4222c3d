from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """The index by which it is told whether a registration that was lost is back: 4,000 of 40,000 took half a second without it."""

    atomic = False  # it is built beside the work

    dependencies = [
        ("registry", "0013_room_for_services"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '10s'", migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name="registration",
            index=models.Index(condition=models.Q(("online", True)), fields=["service", "address"], name="registry_registration_back"),
        ),
        migrations.RunSQL("RESET lock_timeout", migrations.RunSQL.noop),
    ]
