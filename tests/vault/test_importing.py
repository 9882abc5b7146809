"""How a login comes in, and which ones may not."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauthvault.env import ConfigurationError
from tests.conftest import Store
from tests.simulator import Simulator
from tokens import keyring, sealing, vault
from tokens.credential_file import DEFAULT_SCOPES, parse_credentials
from tokens.errors import (
    AlreadyStored,
    ExpiredLogin,
    InvalidCredentials,
    NoToken,
    PreconditionFailed,
    RefreshInProgress,
    StaleCredential,
    TenantSuspended,
    VaultError,
)
from tokens.importing import Effect, ImportResult, Preview, import_credential, preview
from tokens.models import (
    Cause,
    OAuthCredential,
    Outcome,
    Standing,
    Tenant,
    TokenFingerprint,
    VaultKey,
)
from tokens.refresh import refresh
from tokens.refresh.ask import present
from tokens.refresh.claim import claim_credential
from tokens.refresh.save import save_answer
from tokens.tenants import suspend_tenant

NOW = 1_800_000_000.0
LATER = int(NOW) + 3600


def offer(**changes: Any) -> dict[str, Any]:
    return {
        "accessToken": "sk-ant-oat01-one",
        "refreshToken": "sk-ant-ort01-one",
        "expiresAt": LATER,
    } | changes


def test_the_documents_names_snake_case_and_the_whole_file_are_one() -> None:
    plain = parse_credentials(offer(), now=NOW)
    snake = parse_credentials(
        {
            "access_token": "sk-ant-oat01-one",
            "refresh_token": "sk-ant-ort01-one",
            "expires_at": LATER,
        },
        now=NOW,
    )
    whole = parse_credentials(
        {
            "claudeAiOauth": offer(subscriptionType="max", rateLimitTier="x"),
            "mcpOAuth": {"another": "thing"},
        },
        now=NOW,
    )
    assert plain == snake
    assert whole.access_token == plain.access_token
    assert (plain.scopes, plain.is_max) == (DEFAULT_SCOPES, True)


@given(seconds=st.integers(int(NOW) + 1, int(NOW) + 9 * 365 * 86_400))
def test_seconds_and_milliseconds_are_told_apart(seconds: int) -> None:
    for value in (seconds, seconds * 1000, str(seconds), str(seconds * 1000), float(seconds)):
        assert parse_credentials(offer(expiresAt=value), now=NOW).expires_at == seconds


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        ([], "(file)", "object"),
        ("sk-ant-oat01-canary", "(file)", "object"),
        ({"claudeAiOauth": "canary"}, "claudeAiOauth", "object"),
        ({}, "accessToken", "missing"),
        (offer(refreshToken="  "), "refreshToken", "signed out"),
        (offer(accessToken=""), "accessToken", "blank"),
        (offer(accessToken=7), "accessToken", "text"),
        (offer(accessToken="sk-ant-oat01-canary\nx"), "accessToken", "characters"),
        (offer(accessToken="sk-ant-ort01-canary"), "accessToken", "exchanged"),
        (offer(accessToken="sk-ant-api03-canary"), "accessToken", "API key"),
        (offer(refreshToken="sk-ant-oat01-canary"), "refreshToken", "exchanged"),
        (offer(accessToken="c" * 9000), "accessToken", "longer"),
        (offer(expiresAt="tomorrow"), "expiresAt", "Unix time"),
        (offer(expiresAt=True), "expiresAt", "Unix time"),
        (offer(expiresAt=-1), "expiresAt", "no Unix time"),
        (offer(expiresAt=99_999_999_999), "expiresAt", "ten years"),
        (offer(refreshToken=None, expiresAt=5), "expiresAt", "expired"),
        (offer(refreshTokenExpiresAt=5), "refreshTokenExpiresAt", "expired"),
        (offer(isMax="yes"), "isMax", "true or false"),
        (offer(scopes=[1]), "scopes", "list"),
        (offer(apiKey="canary"), "apiKey", "not a field"),
        (offer(access_token="canary"), "access_token", "twice"),
    ],
)
def test_what_is_wrong_is_named_by_field_and_never_by_value(
    content: object, field: str, says: str
) -> None:
    with pytest.raises(InvalidCredentials) as refused:
        parse_credentials(content, now=NOW)
    assert any(name.endswith(field) and says in why for name, why in refused.value.fields.items())
    assert "canary" not in str(refused.value)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "claudeAiOauth",
                    "accessToken",
                    "refresh_token",
                    "expiresAt",
                    "scopes",
                    "isMax",
                    "x",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


def test_a_login_that_has_only_ended_is_told_from_a_wrong_one() -> None:
    past = int(NOW) - 5
    for content in (
        {"accessToken": "sk-ant-oat01-one", "expiresAt": past},
        offer(refreshTokenExpiresAt=past),
    ):
        with pytest.raises(ExpiredLogin):
            parse_credentials(content, now=NOW)
        with pytest.raises(InvalidCredentials) as refused:
            parse_credentials({**content, "scopes": 1}, now=NOW)
        assert type(refused.value) is InvalidCredentials


@given(content=json_like)
def test_any_content_is_read_or_refused_and_nothing_else(content: object) -> None:
    try:
        read = parse_credentials(content, now=NOW)
    except InvalidCredentials as refused:
        named = refused.fields
    else:
        named = {"access_token": read.access_token.reveal()}
    assert named


pytest_db = pytest.mark.django_db


def put(tenant: Tenant, user_id: str, content: dict[str, Any], **options: Any) -> OAuthCredential:
    return import_credential(
        tenant=tenant,
        user_id=user_id,
        offered=parse_credentials(content, now=NOW),
        actor="test",
        now=NOW,
        **options,
    ).credential


def put_again(tenant: Tenant, content: dict[str, Any]) -> ImportResult:
    """alice's, once more; what came of it."""
    return import_credential(
        tenant=tenant,
        user_id="alice",
        offered=parse_credentials(content, now=NOW),
        actor="test",
        now=NOW,
    )


@pytest_db
def test_a_stored_login_is_sealed_and_opens_to_what_was_given(acme: Tenant) -> None:
    put(acme, "alice", offer())
    row = OAuthCredential.objects.select_related("data_key").get()
    assert "sk-ant" not in str(row.access_token_encrypted) + str(row.refresh_token_encrypted)
    assert sealing.open_access_token(row).reveal() == "sk-ant-oat01-one"
    assert sealing.open_refresh_token(row).reveal() == "sk-ant-ort01-one"


@pytest_db
def test_the_same_login_again_changes_nothing(acme: Tenant) -> None:
    first = put(acme, "alice", offer())
    again = import_credential(
        tenant=acme,
        user_id="alice",
        offered=parse_credentials(offer(), now=NOW),
        actor="test",
        now=NOW,
    )
    assert (again.created, again.changed) == (False, False)
    assert again.credential.generation == first.generation


@pytest_db
@pytest.mark.parametrize("same_tenant", [True, False])
def test_one_login_cannot_be_stored_under_two_users(
    acme: Tenant, globex: Tenant, same_tenant: bool
) -> None:
    put(acme, "alice", offer())
    with pytest.raises(AlreadyStored):
        put(acme if same_tenant else globex, "bob", offer(accessToken="sk-ant-oat01-two"))
    assert OAuthCredential.objects.count() == 1
    assert TokenFingerprint.objects.count() == 2


@pytest_db
def test_a_login_without_a_refresh_token_is_held_once_as_well(acme: Tenant) -> None:
    put(acme, "alice", offer(refreshToken=None))
    with pytest.raises(AlreadyStored):
        put(acme, "bob", offer(refreshToken=None))


@pytest_db
def test_a_revoked_login_never_comes_back_by_an_old_file(acme: Tenant) -> None:
    put(acme, "alice", offer())
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=NOW)
    with pytest.raises(StaleCredential):
        put(acme, "alice", offer())
    with pytest.raises(StaleCredential):
        put(acme, "bob", offer())
    assert OAuthCredential.objects.get().standing == Standing.REVOKED


@pytest_db
def test_a_replaced_login_never_comes_back_either(acme: Tenant) -> None:
    put(acme, "alice", offer())
    put(acme, "alice", offer(accessToken="sk-ant-oat01-new", refreshToken="sk-ant-ort01-new"))
    with pytest.raises(StaleCredential):
        put(acme, "alice", offer())


@pytest.mark.django_db(transaction=True)
def test_a_login_that_the_vault_has_rotated_since_is_known_as_stale(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("alice")
    alice = store(acme, "alice", login)
    refresh(tenant_id=acme.pk, credential_id=alice.pk, cause=Cause.DEMAND, actor="test")
    with pytest.raises(StaleCredential):
        store(acme, "alice", login)


@pytest_db
def test_a_new_login_after_a_revocation_is_welcome(acme: Tenant) -> None:
    put(acme, "alice", offer())
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=NOW)
    put(acme, "alice", offer(accessToken="sk-ant-oat01-new", refreshToken="sk-ant-ort01-new"))
    handed = vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=NOW)
    assert handed.access_token.reveal() == "sk-ant-oat01-new"
    assert handed.generation == 3


@pytest_db
def test_only_if_absent_keeps_what_is_there(acme: Tenant) -> None:
    put(acme, "alice", offer())
    with pytest.raises(PreconditionFailed):
        put(
            acme,
            "alice",
            offer(accessToken="sk-ant-oat01-new", refreshToken="sk-ant-ort01-new"),
            only_if_absent=True,
        )


def look(tenant: Tenant, user_id: str, content: dict[str, Any]) -> Preview:
    (seen,) = preview(
        tenant=tenant, offers=[(user_id, parse_credentials(content, now=NOW))], now=NOW
    )
    if isinstance(seen, VaultError):
        raise seen
    return seen


OTHER = {"accessToken": "sk-ant-oat01-new", "refreshToken": "sk-ant-ort01-new"}


@pytest_db
def test_a_preview_says_what_an_import_then_does(
    acme: Tenant, django_assert_num_queries: Any
) -> None:
    """Each effect; and it has written nothing, for it only reads: three queries, whatever the
    number."""
    keyring.fingerprint("the key is at hand")
    steps = [
        (offer(), Effect.NEW, None),
        (offer(), Effect.UNCHANGED, None),
        (offer(expiresAt=LATER + 5), Effect.CORRECTED, None),
        (offer(**OTHER), Effect.REPLACED, 1),
    ]
    for content, effect, replaces in steps:
        before = list(OAuthCredential.objects.values()), list(TokenFingerprint.objects.values())
        with django_assert_num_queries(3) as queries:
            seen = look(acme, "alice", content)
        assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)
        after = list(OAuthCredential.objects.values()), list(TokenFingerprint.objects.values())
        assert after == before
        assert (seen.effect, seen.replaces) == (effect, replaces)
        done = put_again(acme, content)
        assert (done.effect, done.replaced, done.warnings) == (effect, replaces, seen.warnings)
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=NOW)
    third = offer(accessToken="sk-ant-oat01-3", refreshToken="sk-ant-ort01-3")
    assert look(acme, "alice", third).effect is Effect.AFTER_REVOCATION


@pytest_db
def test_a_preview_refuses_what_an_import_refuses_in_the_same_words(
    acme: Tenant, globex: Tenant
) -> None:
    put(acme, "alice", offer())
    put(acme, "alice", offer(**OTHER))
    for tenant, user_id, content in (
        (acme, "alice", offer()),
        (globex, "carol", offer(**OTHER)),
        (acme, "default", offer(accessToken="sk-ant-oat01-4")),
        (acme, "sk-ant-oat01-looks-like-one", offer(accessToken="sk-ant-oat01-4")),
        (acme, "a\0b", offer(accessToken="sk-ant-oat01-4")),
        (acme, "a\udcff", offer(accessToken="sk-ant-oat01-4")),
    ):
        with pytest.raises(VaultError) as looked:
            look(tenant, user_id, content)
        with pytest.raises(VaultError) as tried:
            put(tenant, user_id, content)
        assert (type(looked.value), looked.value.detail) == (type(tried.value), tried.value.detail)
    suspend_tenant(tenant=globex, actor="test", now=NOW)
    with pytest.raises(TenantSuspended):
        look(globex, "carol", offer(accessToken="sk-ant-oat01-5"))


@pytest_db
def test_a_login_that_ends_before_the_one_that_is_held_may_be_an_older_one(acme: Tenant) -> None:
    put(acme, "alice", offer(expiresAt=LATER + 5))
    assert any(
        "may be an older one" in said for said in look(acme, "alice", offer(**OTHER)).warnings
    )
    later = offer(expiresAt=LATER + 6, **OTHER)
    assert not any("older one" in said for said in look(acme, "alice", later).warnings)


@pytest_db
def test_what_was_expected_is_done_or_nothing(acme: Tenant) -> None:
    """Between the question and the answer somebody else stored a login, or this very one."""
    with pytest.raises(PreconditionFailed):
        put(acme, "alice", offer(), expected=Effect.REPLACED)
    assert not OAuthCredential.objects.exists()
    put(acme, "alice", offer(), expected=Effect.NEW)
    put(acme, "alice", offer(), expected=Effect.NEW)
    with pytest.raises(PreconditionFailed):
        put(acme, "alice", offer(**OTHER), expected=Effect.NEW)
    assert OAuthCredential.objects.get().generation == 1


@pytest_db
def test_a_users_id_is_compared_exactly(acme: Tenant) -> None:
    put(acme, "Alice", offer())
    for other in ("alice", "Alice ", "ALICE", "Alicé"):
        with pytest.raises(NoToken):
            vault.issue_access_token(tenant=acme, user_id=other, actor="test", now=NOW)


@pytest_db
def test_the_user_of_one_tenant_is_nobody_in_another(acme: Tenant, globex: Tenant) -> None:
    put(acme, "alice", offer())
    for ask in (vault.issue_access_token, vault.refresh_now):
        with pytest.raises(NoToken):
            ask(tenant=globex, user_id="alice", actor="test", now=NOW)
    with pytest.raises(NoToken):
        vault.revoke(tenant=globex, user_id="alice", actor="test", now=NOW)
    assert vault.describe(tenant=globex, user_id="alice") is None


@pytest_db
def test_a_sealed_column_moved_to_another_row_or_tenant_does_not_open(
    acme: Tenant, globex: Tenant
) -> None:
    from tokens.errors import EncryptionError

    alice = put(acme, "alice", offer())
    carol = put(globex, "carol", offer(accessToken="sk-ant-oat01-c", refreshToken="sk-ant-ort01-c"))
    bob = put(acme, "bob", offer(accessToken="sk-ant-oat01-b", refreshToken="sk-ant-ort01-b"))
    for thief in (bob, carol):
        OAuthCredential.objects.filter(pk=thief.pk).update(
            access_token_encrypted=alice.access_token_encrypted, data_key=alice.data_key
        )
        with pytest.raises(EncryptionError):
            vault.issue_access_token(
                tenant=thief.tenant, user_id=thief.user_id, actor="test", now=NOW
            )
        # Nor would PostgreSQL keep it: a row points to its own tenant's data key.
        OAuthCredential.objects.filter(pk=thief.pk).update(data_key=thief.data_key)
    OAuthCredential.objects.filter(pk=alice.pk).update(
        access_token_encrypted=alice.refresh_token_encrypted
    )
    with pytest.raises(EncryptionError):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=NOW)


@pytest_db
def test_a_corrected_expiry_of_the_held_login_touches_no_refresh_under_way(acme: Tenant) -> None:
    alice = put(acme, "alice", offer())
    OAuthCredential.objects.filter(pk=alice.pk).update(unanswered_presentations=1)
    put(acme, "alice", offer(expiresAt=LATER + 5))
    after = OAuthCredential.objects.get()
    assert (after.generation, after.unanswered_presentations) == (1, 1)
    assert after.expires_at == LATER + 5


@pytest_db
def test_what_the_file_says_anew_of_the_held_login_is_taken_over(acme: Tenant) -> None:
    """Its first file did not say when it ends; this one does, and it is soon."""
    alice = put(acme, "alice", offer())
    assert alice.login_expiry_is_estimate
    OAuthCredential.objects.filter(pk=alice.pk).update(
        lease_id=uuid.uuid4(), lease_until=NOW + 45, unanswered_presentations=1
    )
    again = put_again(
        acme,
        offer(
            refreshTokenExpiresAt=int(NOW) + 2 * 86_400,
            scopes=["user:inference"],
            subscriptionType="team",
        ),
    )
    assert again.changed
    after = OAuthCredential.objects.get()
    assert after.login_expires_at == int(NOW) + 2 * 86_400
    assert not after.login_expiry_is_estimate
    assert after.announce_at == int(NOW), "it is warned of at once"
    assert (after.scopes, after.subscription_type) == (["user:inference"], "team")
    assert (after.generation, after.unanswered_presentations) == (1, 1)
    assert after.lease_id is not None
    assert not put_again(acme, offer()).changed, "what a file does not say stays as it is"
    assert OAuthCredential.objects.get().login_expires_at == after.login_expires_at


@pytest.mark.django_db(transaction=True)
def test_the_same_login_imported_during_its_refresh_does_not_cost_the_new_pair(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("alice")
    alice = store(acme, "alice", login)
    claim = claim_credential(acme.pk, alice.pk, Cause.SWEEP, "test", None)
    assert claim is not None
    answer, _ = present(claim)
    again = {"accessToken": login.access_token, "refreshToken": login.refresh_token}
    put(acme, "alice", again | {"expiresAt": LATER})
    assert save_answer(claim, answer, tries=1, latency_ms=1) == Outcome.REFRESHED
    after = OAuthCredential.objects.select_related("data_key").get()
    held = upstream.current_login("alice").refresh_token
    assert sealing.open_refresh_token(after).reveal() == held


@pytest_db
def test_the_held_access_token_alone_does_not_throw_its_refresh_token_away(acme: Tenant) -> None:
    put(acme, "alice", offer())
    put(acme, "alice", offer(refreshToken=None, expiresAt=LATER + 5))
    assert OAuthCredential.objects.get().has_refresh_token


@pytest.mark.django_db(transaction=True)
def test_an_old_file_is_stale_also_where_the_server_kept_the_refresh_token(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("alice")
    alice = store(acme, "alice", login)
    upstream.fault("keep_refresh_token")
    refresh(tenant_id=acme.pk, credential_id=alice.pk, cause=Cause.DEMAND, actor="test")
    with pytest.raises(StaleCredential):
        store(acme, "alice", login)


@pytest_db
def test_a_half_known_login_is_not_taken_while_its_refresh_token_may_be_lost(acme: Tenant) -> None:
    alice = put(acme, "alice", offer())
    OAuthCredential.objects.filter(pk=alice.pk).update(unanswered_presentations=1)
    with pytest.raises(RefreshInProgress):
        put(acme, "alice", offer(accessToken="sk-ant-oat01-other"))


@pytest_db
def test_a_login_that_was_given_up_gives_way_to_another_pair_of_it_and_not_to_its_own_token(
    acme: Tenant,
) -> None:
    alice = put(acme, "alice", offer())
    OAuthCredential.objects.filter(pk=alice.pk).update(
        unanswered_presentations=2,
        standing=Standing.REAUTHORIZATION_REQUIRED,
        refresh_due_at=None,
    )
    with pytest.raises(StaleCredential, match="presented twice"):
        put(acme, "alice", offer(accessToken="sk-ant-oat01-other"))
    after = put(acme, "alice", offer(refreshToken="sk-ant-ort01-other"))
    assert (after.standing, after.unanswered_presentations) == (Standing.ACTIVE, 0)


@pytest_db
def test_no_key_of_the_vault_is_made_inside_somebody_elses_transaction(acme: Tenant) -> None:
    """Rolled back there, it would live on in this process and hash for nobody else."""
    VaultKey.objects.all().delete()
    keyring.forget()
    with pytest.raises(ConfigurationError, match="init"):
        put(acme, "alice", offer())
    assert not VaultKey.objects.exists()
