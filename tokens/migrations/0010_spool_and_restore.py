"""An answer with the tokens of another credential has a name of its own; since when a login is
here, and when it was released from a quarantine; where a restored database keeps its epoch."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tokens", "0009_audit_checks")]

    operations = [
        migrations.AlterField(
            model_name='oauthcredential',
            name='problem',
            field=models.CharField(blank=True, choices=[('', 'None'), ('rotated_elsewhere', 'Rotated Elsewhere'), ('answer_lost', 'Answer Lost'), ('login_ended', 'Login Ended'), ('misdirected', 'Misdirected'), ('invalid_scope', 'Invalid Scope'), ('account_on_hold', 'Account On Hold'), ('upstream_rate_limited', 'Rate Limited'), ('upstream_error', 'Upstream Error'), ('upstream_unavailable', 'Upstream Unavailable'), ('no_answer', 'No Answer')], default='', max_length=32),
        ),
        migrations.AlterField(
            model_name='refreshattempt',
            name='outcome',
            field=models.CharField(choices=[('in_flight', 'In Flight'), ('refreshed', 'Refreshed'), ('superseded', 'refreshed, but revoked or replaced meanwhile'), ('invalid_grant', 'Invalid Grant'), ('invalid_scope', 'Invalid Scope'), ('account_on_hold', 'Account On Hold'), ('rate_limited', 'Rate Limited'), ('upstream_error', 'Upstream Error'), ('unreachable', 'Unreachable'), ('unknown', 'sent, not answered'), ('misdirected', 'answered with the tokens of another credential'), ('not_saved', 'answered, but the database could not be written')], default='in_flight', max_length=16),
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='login_since',
            field=models.FloatField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='released_at',
            field=models.FloatField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='deployment',
            name='lineage',
            field=models.TextField(blank=True, default='', editable=False),
            preserve_default=False,
        ),
    ]
