"""Operators of some tenants only: which they look after, and the three roles as groups."""

import django.db.models.deletion
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models

from tokens.models.wall import behind_the_wall

_SEE = (
    "tokens.view_oauthcredential", "tokens.view_tenant", "tokens.view_auditevent",
    "api.view_apikey",
)  # fmt: skip
_ACT = (
    "tokens.refresh_oauthcredential", "tokens.rotate_oauthcredential",
    "tokens.revoke_oauthcredential", "tokens.suspend_oauthcredential",
    "api.add_apikey", "api.delete_apikey",
)  # fmt: skip
_KEEP = (
    "tokens.all_tenants", "tokens.add_tenant", "tokens.change_tenant", "tokens.delete_tenant",
    "api.grant_token_read",
)  # fmt: skip
ROLES = {
    "Platform administrators": _SEE + _ACT + _KEEP,
    "Tenant operators": _SEE + _ACT,
    "Tenant auditors": _SEE,
}


def make_roles(apps, schema_editor):
    """The groups that are not there yet. One of that name that somebody has made is kept as it is,
    and so is what is in it: that is the administrators' to say."""
    using = schema_editor.connection.alias
    group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    for app in ("tokens", "api"):
        # Django makes the permissions of a model only when all migrations are through.
        config = apps.get_app_config(app)
        before, config.models_module = getattr(config, "models_module", None), True
        create_permissions(config, verbosity=0, apps=apps, using=using)
        config.models_module = before
    for name, allowed in ROLES.items():
        made, is_new = group.objects.using(using).get_or_create(name=name)
        if not is_new:
            continue
        for label in allowed:
            app, codename = label.split(".")
            made.permissions.add(
                permission.objects.using(using).get(
                    content_type__app_label=app, codename=codename
                )
            )


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("api", "0004_grant_token_read"),
        ("tokens", "0011_own_settings"),
    ]

    operations = [
        migrations.CreateModel(
            name="Assignment",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("operator", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="assignments", to=settings.AUTH_USER_MODEL)),
                ("tenant", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="tokens.tenant")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("operator", "tenant"), name="one_assignment_per_tenant"),
                ],
            },
        ),
        migrations.AlterModelOptions(
            name="tenant",
            options={"ordering": ("slug",), "permissions": [("all_tenants", "Looks after every tenant")]},
        ),
        behind_the_wall("tokens_assignment"),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
    ]
