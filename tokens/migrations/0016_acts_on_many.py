"""Acts on many credentials are worked off behind the requests; more acts, each with a right."""

import django.db.models.deletion
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models

from tokens.models.wall import OnPostgreSQL, behind_the_wall, points_within_its_tenant

_ROLES = ("Platform administrators", "Tenant operators", "Tenant auditors")
# What a role may do from now on: what goes with something that it may do already. To give a
# login to somebody else, and to change a tenant's data key, is for who may change tenants.
GOES_WITH = {
    "view_oauthcredential": ("export_oauthcredential", "view_job"),
    "suspend_oauthcredential": ("pause_oauthcredential", "stop_job"),
    "change_tenant": ("reassign_oauthcredential", "reseal_oauthcredential"),
}


def add_rights(apps, schema_editor):
    """To the groups of the roles that are there. Whom an administrator has taken a right from
    is not given what goes with it."""
    using = schema_editor.connection.alias
    group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    # Django makes the permissions of a model only when all migrations are through.
    config = apps.get_app_config("tokens")
    before, config.models_module = getattr(config, "models_module", None), True
    create_permissions(config, verbosity=0, apps=apps, using=using)
    config.models_module = before
    ours = permission.objects.using(using).filter(content_type__app_label="tokens")
    for role in group.objects.using(using).filter(name__in=_ROLES):
        for right, more in GOES_WITH.items():
            if role.permissions.filter(codename=right, content_type__app_label="tokens").exists():
                role.permissions.add(*ours.filter(codename__in=more))


class Migration(migrations.Migration):
    dependencies = [
        ('tokens', '0015_home_page'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='oauthcredential',
            options={'ordering': ('tenant', 'user_id'), 'permissions': [('refresh_oauthcredential', 'Can have a credential refreshed now'), ('rotate_oauthcredential', "Can have a credential's token pair replaced now"), ('revoke_oauthcredential', 'Can revoke a credential'), ('suspend_oauthcredential', 'Can suspend and resume a credential'), ('pause_oauthcredential', "Can suspend and resume a credential's automatic refresh"), ('reassign_oauthcredential', 'Can give a credential to another user of its tenant'), ('reseal_oauthcredential', 'Can have credentials sealed under a new data key'), ('export_oauthcredential', 'Can export what is known of credentials')], 'verbose_name': 'credential'},
        ),
        migrations.CreateModel(
            name='Job',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('act', models.CharField(choices=[('refresh', 'Refresh now'), ('rotate', 'Rotate tokens'), ('revoke', 'Revoke'), ('suspend', 'Suspend'), ('resume', 'Resume'), ('suspend_auto_refresh', 'Suspend automatic refresh'), ('resume_auto_refresh', 'Resume automatic refresh'), ('reseal', 'Re-seal under a new data key')], max_length=32)),
                ('actor', models.CharField(max_length=200)),
                ('replacing', models.CharField(blank=True, max_length=32)),
                ('total', models.PositiveIntegerField()),
                ('asked_at', models.FloatField()),
                ('published_at', models.FloatField(null=True)),
                ('worked_at', models.FloatField(null=True)),
                ('lease_id', models.UUIDField(editable=False, null=True)),
                ('lease_until', models.FloatField(editable=False, null=True)),
                ('resumes_at', models.FloatField(null=True)),
                ('pause', models.CharField(blank=True, max_length=200)),
                ('stopped_by', models.CharField(blank=True, max_length=200)),
                ('ended_at', models.FloatField(null=True)),
                ('operator', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='jobs', to='tokens.tenant')),
            ],
            options={
                'permissions': [('stop_job', 'Can stop a job that is under way')],
                'default_permissions': ('view',),
            },
        ),
        migrations.CreateModel(
            name='JobRow',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('user_id', models.CharField(max_length=256)),
                ('generation', models.BigIntegerField()),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('begun', 'Begun'), ('done', 'Done'), ('left_out', 'left out'), ('failed', 'Failed'), ('unknown', 'not known')], default='waiting', max_length=16)),
                ('said', models.CharField(blank=True, max_length=500)),
                ('begun_at', models.FloatField(null=True)),
                ('ended_at', models.FloatField(null=True)),
                ('credential', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tokens.oauthcredential')),
                ('job', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='rows', to='tokens.job')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tokens.tenant')),
            ],
            options={
                'default_permissions': (),
            },
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['tenant', '-asked_at'], name='job_recent'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('ended_at', None)), fields=['asked_at'], name='job_unfinished'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.CheckConstraint(condition=models.Q(('act__in', ['refresh', 'rotate', 'revoke', 'suspend', 'resume', 'suspend_auto_refresh', 'resume_auto_refresh', 'reseal'])), name='act_is_known'),
        ),
        migrations.AddIndex(
            model_name='jobrow',
            index=models.Index(fields=['job', 'state', 'id'], name='job_row_state'),
        ),
        migrations.AddConstraint(
            model_name='jobrow',
            constraint=models.UniqueConstraint(fields=('job', 'credential'), name='a_job_has_each_once'),
        ),
        migrations.AddConstraint(
            model_name='jobrow',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['waiting', 'begun', 'done', 'left_out', 'failed', 'unknown'])), name='row_state_is_known'),
        ),
        OnPostgreSQL(
            sql="ALTER TABLE tokens_job ADD CONSTRAINT tokens_job_of_tenant UNIQUE (tenant_id, id)",
            reverse_sql="ALTER TABLE tokens_job DROP CONSTRAINT tokens_job_of_tenant",
        ),
        points_within_its_tenant("tokens_jobrow", "job_id", "tokens_job"),
        points_within_its_tenant("tokens_jobrow", "credential_id", "claude_oauth_tokens"),
        behind_the_wall("tokens_job"),
        behind_the_wall("tokens_jobrow"),
        migrations.RunPython(add_rights, migrations.RunPython.noop),
    ]
