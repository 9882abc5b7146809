"""No row of the audit trail lies where nobody looks: batches count from 1, and whose a record is
is the id of a tenant, or nothing at all (a CHECK lets NULL pass).
"""

from importlib import import_module

from django.db import migrations, models

_chain = import_module("tokens.migrations.0005_audit_chain")
_LARGEST = 2**63 - 1


def _of_a_tenant_or_of_none(model, name):
    return migrations.AddConstraint(
        model_name=model,
        constraint=models.CheckConstraint(
            condition=models.Q(tenant__gt=0, tenant__lte=_LARGEST), name=name
        ),
    )


class Migration(migrations.Migration):

    dependencies = [("tokens", "0008_chains_of_their_tenants")]

    operations = [
        # SQLite makes the tables anew: without triggers, and not while any names the old ones.
        migrations.RunPython(_chain.unguard, _chain.guard),
        _of_a_tenant_or_of_none("auditchain", "an_audit_chain_is_of_a_tenant_or_of_none"),
        _of_a_tenant_or_of_none("auditbatch", "an_audit_batch_is_of_a_tenant_or_of_none"),
        _of_a_tenant_or_of_none("auditevent", "an_audit_record_is_of_a_tenant_or_of_none"),
        migrations.AddConstraint(
            model_name="auditbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(number__gte=1, number__lte=_LARGEST),
                name="audit_batches_count_from_1",
            ),
        ),
        migrations.RunPython(_chain.guard, _chain.unguard),
    ]
