"""The index of leases that end serves nothing but the search for them.

It stood open to whatever asks for messages in hand: with a snapshot held and statistics of the few rows that are visible, the planner took
it to find those of one lease, and every pull and settlement went through all the dead versions in it.
"""

from django.db import migrations

from messages.migrations._sql import PATIENCE, load

INDEX = f"""
{PATIENCE};
DROP INDEX mq_exception_until;
CREATE INDEX mq_exception_until ON mq_exception (lease_until) WHERE status = 'P' AND lease_until IS NOT NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0035_claims_of_before")]

    operations = [migrations.RunSQL(INDEX, migrations.RunSQL.noop), load("consume")]
