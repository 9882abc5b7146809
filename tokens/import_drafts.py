"""A file of logins between the look at it and its import: kept sealed, for ten minutes.

The operator uploads once, sees each row's verdict, and confirms. In between the file must be
somewhere. Hidden fields of the page, the session, a cache or a file on disk would hold tokens in
plain; to have it uploaded again would leave open whether it is the same file. So it is sealed
under a key of its own, which is made for it, goes to the operator's browser as a cookie of this
one page, and is kept nowhere here. What is in the database opens for nobody without that browser,
not under the key-encryption key, and not in a backup; what is in the browser is no token and opens
nothing by itself. No rotation has to know of these keys, and none outlives its cookie.

The sealing is bound to the draft, the operator and their session. A draft is deleted with its last
row, when the operator begins another, and an hour at most after its end (`tokens.history`).
"""

import base64
import binascii
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Q

from tokens.credential_list import Row, rows
from tokens.encryption import KEY_BYTES, Key
from tokens.errors import EncryptionError, VaultError
from tokens.import_list import ImportList, Verdict, tenants_named
from tokens.importing import Effect
from tokens.models import ImportDraft, Tenant
from tokens.secret import Secret

LIFETIME = 600
# Rows that one request stores: seconds, whatever the database.
STEP = 200
# Seconds after which a request that stores some rows has died.
_LONGEST_STEP = 120
_KEY_ID = "draft"


class NoDraft(VaultError):
    """It has ended, is done with, or is another operator's, session's or browser's."""

    code = "no_draft"

    def __init__(self) -> None:
        super().__init__(
            "this import has ended, is done or was begun in another session; upload the file again"
        )


class DraftBusy(VaultError):
    """Another request of the operator is storing these rows."""

    code = "import_in_progress"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an import is. ``draft`` None: it is done. ``verdicts``: of what is done."""

    draft: ImportDraft | None
    done: int
    total: int
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """What was looked at: the file, and which rows are to be stored, with the effect shown and
    since when the login is here that a row replaces."""

    text: Secret
    user: str | None
    has_default_user: bool
    expected: dict[int, tuple[Effect, float | None]]


def keep(
    *,
    tenant: Tenant,
    operator: User,
    session: str,
    text: Secret,
    user: str | None,
    verdicts: Sequence[Verdict],
    now: float,
) -> tuple[ImportDraft, Secret]:
    """Keep the file whose rows were judged so, in place of the operator's earlier one. The draft,
    and the text of its key, without which it is nothing."""
    discard(operator=operator)
    material = os.urandom(KEY_BYTES)
    draft = ImportDraft(tenant=tenant, operator=operator, ends_at=now + LIFETIME)
    key = Key(material, key_id=_KEY_ID)
    upload = {
        "text": text.reveal(),
        "user": user,
        "has_default_user": tenant.has_default_user,
        "expected": {
            str(verdict.line): [verdict.effect, verdict.since]
            for verdict in verdicts
            if verdict.changes_something
        },
    }
    draft.sealed = _seal(key, draft, "file", session, upload)
    # What is not to be stored is part of the report from the beginning.
    left = [verdict for verdict in verdicts if not verdict.changes_something]
    draft.report = _seal(key, draft, "report", session, [asdict(verdict) for verdict in left])
    draft.save(force_insert=True)
    return draft, Secret(base64.urlsafe_b64encode(material).decode("ascii"))


def discard(*, operator: User) -> None:
    """Whatever the operator has uploaded and not confirmed is gone."""
    ImportDraft.objects.filter(operator=operator).delete()


def forget_ended(*, tenant_id: int, now: float) -> None:
    """Delete what nobody has confirmed in time."""
    ImportDraft.objects.filter(tenant_id=tenant_id, ends_at__lte=now).delete()


def store_some(
    *,
    draft_id: str,
    position: int,
    operator: User,
    session: str,
    key_text: str,
    actor: str,
    now: float,
) -> Progress:
    """Store the next `STEP` of the confirmed rows, as they were shown or not at all.

    ``position``: how many the asking page knew to be done; if more are, nothing is stored and
    that is told. Killed in the middle, the same rows are gone through again after two minutes:
    what is stored already stays as it is. NoDraft, DraftBusy.
    """
    draft = _draft(draft_id, operator=operator, now=now)
    key = _key(key_text)
    upload = _upload(key, draft, session)
    wanted = list(upload.expected)
    if draft.position > position:
        return _progress(key, draft, session, total=len(wanted))
    claimed = (
        ImportDraft.objects.filter(pk=draft.pk, operator=operator, position=position)
        .filter(Q(busy_until=None) | Q(busy_until__lte=now))
        .update(busy_until=now + _LONGEST_STEP, ends_at=now + LIFETIME)
    )
    if not claimed:
        raise DraftBusy("these logins are being stored at this moment")
    chosen = set(wanted[position : position + STEP])
    found = [row for row in _rows(upload) if row.line in chosen]
    many = ImportList(tenant=draft.tenant, tenants=tenants_named(found))
    verdicts = [
        *_report(key, draft, session),
        *(
            many.store(row, actor=actor, expected=effect, expected_since=since, now=now)
            for row in found
            for effect, since in [upload.expected[row.line]]
        ),
    ]
    draft.position = position + len(chosen)
    if draft.position >= len(wanted):
        draft.delete()
        return Progress(
            draft=None, done=len(wanted), total=len(wanted), verdicts=_in_order(verdicts)
        )
    draft.busy_until = None
    draft.ends_at = now + LIFETIME
    draft.report = _seal(key, draft, "report", session, [asdict(each) for each in verdicts])
    draft.save(update_fields=["position", "busy_until", "ends_at", "report"])
    return _progress(key, draft, session, total=len(wanted))


def _draft(draft_id: str, *, operator: User, now: float) -> ImportDraft:
    try:
        pk = uuid.UUID(draft_id)
    except ValueError:
        raise NoDraft from None
    draft = ImportDraft.objects.filter(pk=pk, operator=operator, ends_at__gt=now).first()
    if draft is None:
        raise NoDraft
    return draft


def _progress(key: Key, draft: ImportDraft, session: str, *, total: int) -> Progress:
    verdicts = _in_order(_report(key, draft, session))
    return Progress(draft=draft, done=draft.position, total=total, verdicts=verdicts)


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda verdict: verdict.line)


def _rows(upload: _Upload) -> list[Row]:
    return list(rows(upload.text, user=upload.user, has_default_user=upload.has_default_user))


def _key(text: str) -> Key:
    try:
        return Key(base64.urlsafe_b64decode(text), key_id=_KEY_ID)
    except (binascii.Error, ValueError, EncryptionError):
        raise NoDraft from None


def _upload(key: Key, draft: ImportDraft, session: str) -> _Upload:
    opened = _open(key, draft, "file", session, draft.sealed)
    return _Upload(
        text=Secret(opened["text"]),
        user=opened["user"],
        has_default_user=opened["has_default_user"],
        expected={
            int(line): (Effect(effect), since)
            for line, (effect, since) in opened["expected"].items()
        },
    )


def _report(key: Key, draft: ImportDraft, session: str) -> list[Verdict]:
    return [
        Verdict(**each | {"effect": each["effect"] and Effect(each["effect"])})
        for each in _open(key, draft, "report", session, draft.report)
    ]


def _seal(key: Key, draft: ImportDraft, part: str, session: str, value: object) -> str:
    return key.seal(json.dumps(value).encode("ascii"), context=_context(draft, part, session))


def _open(key: Key, draft: ImportDraft, part: str, session: str, sealed: str) -> Any:
    try:
        return json.loads(key.unseal(sealed, context=_context(draft, part, session)))
    except EncryptionError:
        raise NoDraft from None


def _context(draft: ImportDraft, part: str, session: str) -> list[str]:
    return [f"import draft {draft.pk}", f"operator {draft.operator_id}", f"session {session}", part]
