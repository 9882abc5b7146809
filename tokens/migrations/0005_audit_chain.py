"""The audit trail as a chain, and a database that refuses to change it.

On SQLite a later migration that alters one of the two tables rebuilds it, and its triggers
go with the old one: such a migration begins with `unguard`, and ends with `guard` again.
"""

import django.db.models.deletion
from django.db import migrations, models

from tokens.models.wall import behind_the_wall

_EVENT = (
    "id", "tenant_id", "tenant_slug", "at", "actor", "action", "subject", "outcome", "address",
    "request_id", "detail", "uid", "digest",
)
_BATCH = (
    "id", "tenant_id", "chain_id", "number", "first_id", "last_id", "count", "newest_at",
    "content", "previous", "digest", "sealed_at",
)
# Table, what is refused, and when: a record is sealed once, into a batch of its own chain that
# is not dropped (`_TAKES_NONE`), and leaves only with it;
# a batch is marked as dropped once, and stays.
_REFUSED = (
    ("tokens_auditevent", "INSERT", "NEW.batch_id IS NOT NULL"),
    ("tokens_auditevent", "UPDATE", "OLD.batch_id IS NOT NULL OR NEW.batch_id IS NULL OR {event}"),
    ("tokens_auditbatch", "INSERT", "NEW.dropped_at IS NOT NULL OR NEW.drop_digest <> ''"),
    (
        "tokens_auditbatch",
        "UPDATE",
        "OLD.dropped_at IS NOT NULL OR NEW.dropped_at IS NULL OR length(NEW.drop_digest) <> 64 "
        "OR {records} <> '[]' OR {batch}",
    ),
    ("tokens_auditbatch", "DELETE", None),
)
_KEPT = "NOT EXISTS (SELECT 1 FROM tokens_auditbatch WHERE id = OLD.batch_id AND dropped_at IS NOT NULL)"
_TAKES_NONE = (
    "NOT EXISTS (SELECT 1 FROM tokens_auditbatch WHERE id = NEW.batch_id AND dropped_at IS NULL "
    "AND chain_id = COALESCE(NEW.tenant_id, 0){held})"
)
_WHY = "the audit trail is not changed"


def guard(apps, schema_editor):
    """Make the triggers (anew). Those of PostgreSQL stop TRUNCATE too."""
    unguard(apps, schema_editor)
    on_postgresql = schema_editor.connection.vendor == "postgresql"
    make = _make_on_postgresql if on_postgresql else _make_on_sqlite
    differs = "IS DISTINCT FROM" if on_postgresql else "IS NOT"
    if on_postgresql:
        refuses = f"""
            CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION '{_WHY}: %', TG_OP USING ERRCODE = '23000';
            END $$"""
        schema_editor.execute(refuses, params=None)  # A percent sign is one.
    for table, act, when in _REFUSED:
        condition = when and when.format(
            event=_changed(_EVENT, differs),
            batch=_changed(_BATCH, differs),
            records="CAST(NEW.records AS text)",
        )
        schema_editor.execute(make(table, act, condition))
    if on_postgresql:
        # A trigger's condition may not ask another table there; a function may. It finds its
        # tables in our schema, whatever the session says of itself.
        schema_editor.execute(f"""
            CREATE FUNCTION audit_record_leaves() RETURNS trigger LANGUAGE plpgsql
            SET search_path FROM CURRENT AS $$
            BEGIN
                IF {_KEPT} THEN
                    RAISE EXCEPTION '{_WHY}: DELETE' USING ERRCODE = '23000';
                END IF;
                RETURN OLD;
            END $$""")
        # With the batch held, so that it is not dropped before the record is in it.
        schema_editor.execute(f"""
            CREATE FUNCTION audit_record_is_sealed() RETURNS trigger LANGUAGE plpgsql
            SET search_path FROM CURRENT AS $$
            BEGIN
                IF {_TAKES_NONE.format(held=" FOR SHARE")} THEN
                    RAISE EXCEPTION '{_WHY}: UPDATE' USING ERRCODE = '23000';
                END IF;
                RETURN NEW;
            END $$""")
        schema_editor.execute(
            "CREATE TRIGGER audit_seal BEFORE UPDATE ON tokens_auditevent "
            "FOR EACH ROW EXECUTE FUNCTION audit_record_is_sealed()"
        )
        schema_editor.execute(
            "CREATE TRIGGER audit_delete BEFORE DELETE ON tokens_auditevent "
            "FOR EACH ROW EXECUTE FUNCTION audit_record_leaves()"
        )
        for table in ("tokens_auditevent", "tokens_auditbatch"):
            schema_editor.execute(
                f"CREATE TRIGGER audit_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuses()"
            )
    else:
        schema_editor.execute(make("tokens_auditevent", "DELETE", _KEPT))
        takes_none = _TAKES_NONE.format(held="")
        schema_editor.execute(make("tokens_auditevent", "UPDATE", takes_none, name="seal"))


def unguard(apps, schema_editor):
    on_postgresql = schema_editor.connection.vendor == "postgresql"
    for table in ("tokens_auditevent", "tokens_auditbatch"):
        for act in ("insert", "update", "seal", "delete", "truncate"):
            if on_postgresql:
                schema_editor.execute(f"DROP TRIGGER IF EXISTS audit_{act} ON {table}")
            else:
                schema_editor.execute(f"DROP TRIGGER IF EXISTS {table}_{act}")
    if on_postgresql:
        for function in ("audit_record_leaves", "audit_record_is_sealed", "audit_refuses"):
            schema_editor.execute(f"DROP FUNCTION IF EXISTS {function}()")


def _make_on_postgresql(table, act, condition):
    when = f"WHEN ({condition}) " if condition else ""
    return (
        f"CREATE TRIGGER audit_{act.lower()} BEFORE {act} ON {table} "
        f"FOR EACH ROW {when}EXECUTE FUNCTION audit_refuses()"
    )


def _make_on_sqlite(table, act, condition, name=""):
    when = f"WHEN {condition} " if condition else ""
    return (
        f"CREATE TRIGGER {table}_{name or act.lower()} BEFORE {act} ON {table} FOR EACH ROW {when}"
        f"BEGIN SELECT RAISE(ABORT, '{_WHY}: {act}'); END"
    )


def _changed(columns, differs):
    return " OR ".join(f'OLD."{name}" {differs} NEW."{name}"' for name in columns)


class Migration(migrations.Migration):

    dependencies = [
        ('tokens', '0004_row_level_security'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditBatch',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.BigIntegerField()),
                ('first_id', models.BigIntegerField()),
                ('last_id', models.BigIntegerField()),
                ('count', models.PositiveIntegerField()),
                ('newest_at', models.FloatField()),
                ('records', models.JSONField(default=list)),
                ('content', models.CharField(max_length=64)),
                ('previous', models.CharField(blank=True, max_length=64)),
                ('digest', models.CharField(max_length=64)),
                ('sealed_at', models.FloatField()),
                ('dropped_at', models.FloatField(null=True)),
                ('drop_digest', models.CharField(blank=True, max_length=64)),
            ],
            options={
                'verbose_name_plural': 'audit batches',
            },
        ),
        migrations.CreateModel(
            name='AuditChain',
            fields=[
                ('id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('tenant_slug', models.CharField(blank=True, max_length=63)),
                ('sealed_at', models.FloatField(null=True)),
                ('verified_at', models.FloatField(null=True)),
                ('broken', models.CharField(blank=True, max_length=300)),
                ('adopted_to', models.BigIntegerField(editable=False, null=True)),
                ('adopted_digest', models.CharField(blank=True, editable=False, max_length=64)),
            ],
        ),
        migrations.AddField(
            model_name='auditevent',
            name='address',
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name='auditevent',
            name='digest',
            field=models.CharField(blank=True, editable=False, max_length=64),
        ),
        migrations.AddField(
            model_name='auditevent',
            name='tenant_slug',
            field=models.CharField(blank=True, max_length=63),
        ),
        migrations.AddField(
            model_name='auditevent',
            name='uid',
            field=models.UUIDField(editable=False, null=True, unique=True),
        ),
        migrations.AlterField(
            model_name='auditevent',
            name='tenant',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='audit_events', to='tokens.tenant'),
        ),
        migrations.AddIndex(
            model_name='handout',
            index=models.Index(fields=['tenant', 'minute'], name='hand_out_minute'),
        ),
        migrations.AddField(
            model_name='auditbatch',
            name='tenant',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='tokens.tenant'),
        ),
        migrations.AddField(
            model_name='auditevent',
            name='batch',
            field=models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='events', to='tokens.auditbatch'),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(condition=models.Q(('batch', None)), fields=['tenant', 'id'], name='audit_unsealed'),
        ),
        migrations.AddField(
            model_name='auditchain',
            name='tenant',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='tokens.tenant'),
        ),
        migrations.AddField(
            model_name='auditbatch',
            name='chain',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='batches', to='tokens.auditchain'),
        ),
        migrations.AddIndex(
            model_name='auditbatch',
            index=models.Index(condition=models.Q(('dropped_at', None)), fields=['chain', 'newest_at'], name='audit_batch_kept'),
        ),
        migrations.AddConstraint(
            model_name='auditbatch',
            constraint=models.UniqueConstraint(fields=('chain', 'number'), name='one_audit_batch_per_number'),
        ),
        # A record keeps its tenant's name by value from here on; these were before.
        migrations.RunSQL(
            "UPDATE tokens_auditevent SET tenant_slug = "
            "(SELECT slug FROM tokens_tenant WHERE tokens_tenant.id = tenant_id) "
            "WHERE tenant_id IN (SELECT id FROM tokens_tenant)",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(guard, unguard),
        behind_the_wall("tokens_auditchain"),
        behind_the_wall("tokens_auditbatch"),
    ]
