"""A web process of before 0034 claims producers' ids until it is restarted: what it calls is there again."""

from django.db import migrations

from messages.migrations._sql import load


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0034_claims")]

    operations = [load("append")]
