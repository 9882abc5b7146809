"""Files that are uploaded to the dashboard and not yet imported, and who may upload them."""

import uuid

import django.db.models.deletion
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models

from tokens.models.wall import behind_the_wall

_ROLES = ("Platform administrators", "Tenant operators")


def let_roles_import(apps, schema_editor):
    """Whoever may cut people off may let them in. A role from which somebody has taken that
    stays as it is."""
    using = schema_editor.connection.alias
    group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    # Django makes the permissions of a model only when all migrations are through.
    config = apps.get_app_config("tokens")
    before, config.models_module = getattr(config, "models_module", None), True
    create_permissions(config, verbosity=0, apps=apps, using=using)
    config.models_module = before
    imports = permission.objects.using(using).get(
        content_type__app_label="tokens", codename="import_oauthcredential"
    )
    for role in group.objects.using(using).filter(
        name__in=_ROLES, permissions__codename="revoke_oauthcredential"
    ):
        role.permissions.add(imports)


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("tokens", "0016_acts_on_many"),
    ]

    operations = [
        migrations.CreateModel(
            name="ImportDraft",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("sealed", models.TextField(editable=False)),
                ("report", models.TextField(editable=False)),
                ("position", models.PositiveIntegerField(default=0)),
                ("busy_until", models.FloatField(editable=False, null=True)),
                ("ends_at", models.FloatField()),
                ("operator", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to=settings.AUTH_USER_MODEL)),
                ("tenant", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="tokens.tenant")),
            ],
            options={
                "permissions": [("import_oauthcredential", "Can import credentials")],
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["operator"], name="import_draft_operator"),
                    models.Index(fields=["tenant", "ends_at"], name="import_draft_end"),
                ],
            },
        ),
        behind_the_wall("tokens_importdraft"),
        migrations.RunPython(let_roles_import, migrations.RunPython.noop),
    ]
