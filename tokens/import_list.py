"""Many logins of one file, row by row: what would become of each, and then what did.

The command and the dashboard import by this. What is refused in one row stores nothing of it,
and the others go on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from oauthvault.logging import redact
from tokens import importing
from tokens.credential_file import ImportedCredential, parse_credentials
from tokens.credential_list import Row
from tokens.errors import ExpiredLogin, InvalidCredentials, VaultError
from tokens.importing import Effect, Preview
from tokens.models import Tenant

# What a slug is made of: no database is asked for anything else.
_SLUG = re.compile(r"[a-z0-9-]{1,63}")
# Characters of a name that is refused, and of what is said of a row.
_SHOWN, _SAID = 300, 1000


class UnknownTenant(VaultError):
    """A row names a tenant that is not there, or not whoever imports looks after."""

    code = "no_tenant"


class Duplicate(InvalidCredentials):
    """An earlier row of the file is for this user, or has this login."""


# Refusals that the contract has no code of its own for.
_KINDS: dict[type[VaultError], str] = {Duplicate: "duplicate", ExpiredLogin: "expired"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a row, or has become of it. ``effect`` None: it is refused, for what
    ``code`` (the contract's), ``kind`` (the same, and finer) and ``detail`` say. No text in it
    can be a token. ``expires_at``: Unix seconds."""

    line: int
    tenant: str
    user_id: str
    effect: Effect | None = None
    replaces: int | None = None
    since: float | None = None
    code: str = ""
    kind: str = ""
    detail: str = ""
    warnings: Sequence[str] = ()
    expires_at: int | None = None
    in_milliseconds: bool = False
    refreshable: bool = False

    @property
    def changes_something(self) -> bool:
        return self.effect is not None and self.effect is not Effect.UNCHANGED


class ImportList:
    """The rows of one file, in their order: a row is refused for what an earlier one says.

    ``tenants``: those that rows may name, by slug (`tenants_named`); ``tenant``: of the rows
    that name none.
    """

    def __init__(self, *, tenant: Tenant, tenants: Mapping[str, Tenant]) -> None:
        self._tenant = tenant
        self._tenants = tenants
        # The lines of users, and of logins by their fingerprints.
        self._users: dict[tuple[int, str], int] = {}
        self._logins: dict[str, int] = {}

    def judge(self, rows: Iterable[Row], *, now: float) -> list[Verdict]:
        """What `store` would do with each row at this moment. Nothing is written."""
        read = [(row, self._read(row, now)) for row in rows]
        found: dict[int, Preview | VaultError] = {}
        for tenant, offers in _by_tenant(read):
            previews = importing.preview(
                tenant=tenant,
                offers=[(row.user_id, offered) for row, offered in offers],
                now=now,
            )
            found |= {row.line: each for (row, _), each in zip(offers, previews, strict=True)}
        verdicts = []
        for row, what in read:
            if isinstance(what, VaultError):
                verdicts.append(self._refused(row, what))
                continue
            (_, offered), preview = what, found[row.line]
            if not isinstance(preview, VaultError):
                preview = self._first(row, offered) or preview
            if isinstance(preview, VaultError):
                verdicts.append(self._refused(row, preview))
            else:
                verdicts.append(self._accepted(row, offered, preview))
        return verdicts

    def store(
        self,
        row: Row,
        *,
        actor: str,
        expected: Effect | None = None,
        expected_since: float | None = None,
        now: float,
    ) -> Verdict:
        """Import one row. ``expected``: the effect that was confirmed, on the login that is here
        ``expected_since``; another one is refused."""
        what = self._read(row, now)
        if isinstance(what, VaultError):
            return self._refused(row, what)
        tenant, offered = what
        if (twice := self._first(row, offered)) is not None:
            return self._refused(row, twice)
        try:
            done = importing.import_credential(
                tenant=tenant, user_id=row.user_id, offered=offered, actor=actor,
                expected=expected, expected_since=expected_since, now=now,
            )  # fmt: skip
        except VaultError as refusal:
            for digest in importing.fingerprints(offered):
                self._logins.pop(digest, None)
            return self._refused(row, refusal)
        return self._accepted(
            row,
            offered,
            Preview(effect=done.effect, replaces=done.replaced, warnings=done.warnings),
        )

    def _read(self, row: Row, now: float) -> tuple[Tenant, ImportedCredential] | VaultError:
        if isinstance(row.offered, VaultError):
            return row.offered
        tenant = self._tenant if row.tenant is None else self._tenants.get(row.tenant)
        if tenant is None:
            return UnknownTenant("tenant: is none that this import may store logins for")
        if not row.user_id:
            return InvalidCredentials({"user_id": "is empty"})
        first = self._users.setdefault((tenant.pk, row.user_id), row.line)
        if first != row.line:
            # The second would replace the first, and its login with it.
            return Duplicate({"user_id": f"stands on line {first} already"})
        try:
            return tenant, parse_credentials(row.offered, now=now)
        except InvalidCredentials as refusal:
            return refusal

    def _first(self, row: Row, offered: ImportedCredential) -> Duplicate | None:
        """None, and remembered, unless this login stands on an earlier line."""
        digests = importing.fingerprints(offered)
        for digest in digests & self._logins.keys():
            if self._logins[digest] != row.line:
                where = f"stands on line {self._logins[digest]} already, for another user"
                return Duplicate({"(login)": where})
        self._logins |= dict.fromkeys(digests, row.line)
        return None

    def _accepted(self, row: Row, offered: ImportedCredential, preview: Preview) -> Verdict:
        return Verdict(
            line=row.line,
            tenant=row.tenant or self._tenant.slug,
            user_id=_sayable(row.user_id),
            effect=preview.effect,
            replaces=preview.replaces,
            since=preview.since,
            warnings=tuple(preview.warnings),
            expires_at=offered.expires_at,
            in_milliseconds=offered.in_milliseconds,
            refreshable=offered.refresh_token is not None,
        )

    def _refused(self, row: Row, refusal: VaultError) -> Verdict:
        return Verdict(
            line=row.line,
            tenant=_sayable(self._tenant.slug if row.tenant is None else row.tenant),
            user_id=_sayable(row.user_id),
            code=refusal.code,
            kind=_KINDS.get(type(refusal), refusal.code),
            detail=_shortened(refusal.detail),
        )


def tenants_named(rows: Iterable[Row]) -> dict[str, Tenant]:
    """By its slug, each tenant that a row names, of those for whom the code is at work."""
    slugs = {row.tenant for row in rows if row.tenant and _SLUG.fullmatch(row.tenant)}
    return {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in=slugs)}


def _by_tenant(
    read: Iterable[tuple[Row, tuple[Tenant, ImportedCredential] | VaultError]],
) -> Iterator[tuple[Tenant, list[tuple[Row, ImportedCredential]]]]:
    good = [(row, *what) for row, what in read if not isinstance(what, VaultError)]
    good.sort(key=lambda each: each[1].pk)
    for _, group in groupby(good, key=lambda each: each[1].pk):
        members = list(group)
        yield members[0][1], [(row, offered) for row, _, offered in members]


def _shortened(detail: str) -> str:
    """A file may have half a million fields that are none, and the sentence names each."""
    return detail if len(detail) <= _SAID else f"{detail[:_SAID]}…"


def _sayable(text: str) -> str:
    """A name as UTF-8 has a form for it, and no token: what is refused may be either."""
    return redact(text)[:_SHOWN].encode("utf-8", "backslashreplace").decode("utf-8")
