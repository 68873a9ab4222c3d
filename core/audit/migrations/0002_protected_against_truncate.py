"""Whose key it was, and an audit that neither TRUNCATE nor a session that plays a replica can empty or change."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('audit', '0001_initial'),
    ]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '10s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name='auditentry',
            name='application',
            field=models.CharField(blank=True, db_default='', help_text='Whose key it was.', max_length=120, verbose_name='application'),
        ),
        migrations.AlterField(
            model_name='auditentry',
            name='credential',
            field=models.CharField(blank=True, help_text="session, token:… or key:…; task:… is a worker's own work.", max_length=150, verbose_name='credential'),
        ),
        # ENABLE ALWAYS: session_replication_role = replica, with which ordinary triggers are silent, opens no way around.
        migrations.RunSQL(
            sql="""
            CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_auditentry
              FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
            ALTER TABLE audit_auditentry ENABLE ALWAYS TRIGGER audit_append_only;
            ALTER TABLE audit_auditentry ENABLE ALWAYS TRIGGER audit_no_truncate;
            """,
            reverse_sql="""
            DROP TRIGGER audit_no_truncate ON audit_auditentry;
            ALTER TABLE audit_auditentry ENABLE TRIGGER audit_append_only;
            """,
        ),
    ]
