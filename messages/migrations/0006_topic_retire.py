"""Retiring a topic cancels its delayed messages (sql/0006_topic_retire.sql)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
BEFORE = """
DROP FUNCTION mq_topic_retire(bigint);
CREATE FUNCTION mq_topic_retire(p_topic bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
  FOR g IN SELECT group_id FROM mq_cursor WHERE topic_id = p_topic AND active ORDER BY group_id LOOP PERFORM mq_unsubscribe(g, p_topic); END LOOP;
  UPDATE mq_topic SET retired = true WHERE topic_id = p_topic;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("mq_messages", "0005_storekeeper")]

    operations = [migrations.RunSQL((SQL / "0006_topic_retire.sql").read_text(), BEFORE)]
