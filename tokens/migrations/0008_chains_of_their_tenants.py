"""A chain of the audit trail, and each batch in it, is of the tenant whose chain it is.

Without that a tenant's scope could put a batch at the end of another tenant's chain, from where
it cannot be deleted, and nothing would be sealed there any more. A row that this migration
stumbles over was not written by the vault.
"""

from importlib import import_module

from django.db import migrations, models
from django.db.models.functions import Coalesce

_chain = import_module("tokens.migrations.0005_audit_chain")
_OWN_CHAIN = Coalesce("tenant", 0, output_field=models.BigIntegerField())


class Migration(migrations.Migration):

    dependencies = [("tokens", "0007_rows_of_one_tenant")]

    operations = [
        # SQLite makes the tables anew: without triggers, and not while any names the old ones.
        migrations.RunPython(_chain.unguard, _chain.guard),
        migrations.AddConstraint(
            model_name="auditchain",
            constraint=models.CheckConstraint(
                condition=models.Q(id=_OWN_CHAIN), name="a_chain_is_its_tenants"
            ),
        ),
        migrations.AddConstraint(
            model_name="auditbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(chain=_OWN_CHAIN), name="a_batch_is_in_its_tenants_chain"
            ),
        ),
        migrations.RunPython(_chain.guard, _chain.unguard),
    ]
