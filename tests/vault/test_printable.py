"""A terminal obeys nothing that somebody has put into a name."""

import json
import time

import pytest
from django.db import connection

from tests.emptying import triggers
from tests.vault.test_audit_chain import act, seal_all, sql, told
from tokens.models import AuditChain, AuditEvent, Tenant
from tokens.printable import printable, printable_json, printable_lines

# Ends the line and begins one of its own; hides what follows; CSI in one sign; from right to left.
OBEYED = "acme: whole; 3 records\n\x1b[8m\x9b8m\u202egnorw\u2028\x7f"


def test_what_a_terminal_obeys_is_escaped_and_the_rest_is_not() -> None:
    assert printable("Zoë & 漢字 😀") == "Zoë & 漢字 😀"
    escaped = printable(OBEYED)
    assert escaped == r"acme: whole; 3 records\n\x1b[8m\x9b8m\u202egnorw\u2028\x7f"
    assert printable_lines("one\n\x1b[2Jtwo") == "one\n\\x1b[2Jtwo"


def test_json_says_the_same_and_is_one_line_to_everybody() -> None:
    value = {"name": OBEYED + "\U000e0001", "other": "Zoë"}
    text = printable_json(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert "Zoë" in text


@pytest.mark.django_db
@pytest.mark.usefixtures("data_dir")
def test_no_command_has_a_name_in_the_database_speak_for_it(acme: Tenant) -> None:
    act(acme)
    seal_all(at=time.time())
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET actor = %s", OBEYED)
    AuditChain.objects.filter(pk=acme.pk).update(tenant_slug=OBEYED)
    Tenant.objects.filter(pk=acme.pk).update(slug=OBEYED, name=OBEYED)
    printed = [
        told("verify_audit", refused=True),
        told("verify_audit", "--json", refused=True),
        told("list_tenants"),
        told("list_tenants", "--json"),
    ]
    exported = told("export_audit")
    assert len(exported.splitlines()) == AuditEvent.objects.count()
    for text in (*printed, exported):
        assert text.replace("\n", "").isprintable()
        assert "gnorw" in text
        assert not any(line.startswith("acme: whole; 3 records\n") for line in text.splitlines())
    assert len(told("list_tenants").splitlines()) == 1
