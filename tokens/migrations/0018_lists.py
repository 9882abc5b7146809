"""What the lists of the dashboard ask at a hundred thousand credentials and a million records is
answered by indexes; the account behind a login; and the right to export the audit trail."""

from django.contrib.auth.management import create_permissions
from django.db import migrations, models

# Whoever reads the trail could export it before there was a right of its own.
ROLES = ("Platform administrators", "Tenant operators", "Tenant auditors")


def grant_export(apps, schema_editor):
    """To the roles that are there. What somebody has made of them beyond that is kept."""
    using = schema_editor.connection.alias
    group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    # Django makes the permissions of a model only when all migrations are through.
    config = apps.get_app_config("tokens")
    before, config.models_module = getattr(config, "models_module", None), True
    create_permissions(config, verbosity=0, apps=apps, using=using)
    config.models_module = before
    export = permission.objects.using(using).get(
        content_type__app_label="tokens", codename="export_auditevent"
    )
    for role in group.objects.using(using).filter(
        name__in=ROLES, permissions__codename="view_auditevent"
    ):
        role.permissions.add(export)


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("tokens", "0017_import_drafts"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='auditevent',
            options={'ordering': ('-at', '-id'), 'permissions': [('export_auditevent', 'Can export the audit trail')]},
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='account_email',
            field=models.CharField(blank=True, db_default='', default='', max_length=254),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['-at', '-id'], name='audit_newest'),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['action', '-at'], name='audit_action'),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(condition=models.Q(('outcome__in', ('done', 'refreshed')), _negated=True), fields=['outcome', '-at'], name='audit_went_wrong'),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['actor'], name='audit_actor', opclasses=['varchar_pattern_ops']),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['subject'], name='audit_by_subject', opclasses=['varchar_pattern_ops']),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['request_id'], name='audit_request', opclasses=['varchar_pattern_ops']),
        ),
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(fields=['user_id'], name='credential_by_user', opclasses=['varchar_pattern_ops']),
        ),
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(fields=['account_email'], name='credential_by_account', opclasses=['varchar_pattern_ops']),
        ),
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(fields=['expires_at'], name='credential_ends'),
        ),
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(fields=['login_expires_at'], name='credential_login_ends'),
        ),
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(condition=models.Q(('consecutive_failures__gt', 0)), fields=['tenant', 'user_id'], name='credential_failing'),
        ),
        migrations.RunPython(grant_export, migrations.RunPython.noop),
    ]
