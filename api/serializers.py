"""The shapes of requests and answers. Requests are checked by them; answers are built in
`api.answers` and described here for the schema, which the tests hold every answer against.
"""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from api.bodies import refuse_unknown
from tokens.models import Backoff, Status
from tokens.tenants import LONGEST_THRESHOLD, MOST_RETRIES

LONGEST_TOKEN = 8192
_LARGEST_GENERATION = 2**63 - 1
_MOST_ON_A_PAGE, _USUAL_PAGE = 500, 100


class _Request(serializers.Serializer[Any]):
    """A request whose unknown fields are refused by name."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            refuse_unknown(data, known=self.fields)
        return super().to_internal_value(data)


class _WholeNumber(serializers.IntegerField):
    """A JSON number without a fraction: no text, no true."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class _Switch(serializers.BooleanField):
    """JSON's true or false: no text, no number."""

    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            self.fail("invalid")
        return data


class OwnSettings(_Request):
    """How one credential is refreshed. Null, or left out: as its tenant is set."""

    auto_refresh = _Switch(
        allow_null=True,
        required=False,
        default=None,
        help_text="Refresh ahead of expiry. True switches on nothing that the tenant or the "
        "deployment has switched off.",
    )
    refresh_threshold = _WholeNumber(
        min_value=1,
        max_value=LONGEST_THRESHOLD,
        allow_null=True,
        required=False,
        default=None,
        help_text="Seconds before expiry at which the token is refreshed.",
    )
    max_retries = _WholeNumber(
        min_value=0,
        max_value=MOST_RETRIES,
        allow_null=True,
        required=False,
        default=None,
        help_text="Quick retries inside one refresh, when the authorization server fails.",
    )
    retry_backoff = serializers.ChoiceField(
        choices=Backoff.choices,
        allow_null=True,
        required=False,
        default=None,
        error_messages={"invalid_choice": f"must be one of {', '.join(Backoff.values)}"},
        help_text="How the pauses between them grow.",
    )


class RejectedRequest(_Request):
    generation = _WholeNumber(
        min_value=1,
        max_value=_LARGEST_GENERATION,
        help_text="The generation that upstream answered 401 to.",
    )


class IdentifyRequest(_Request):
    access_token = serializers.CharField(max_length=LONGEST_TOKEN, trim_whitespace=False)


class CredentialsQuery(_Request):
    status = serializers.ChoiceField(
        choices=Status.choices,
        required=False,
        default=None,
        error_messages={"invalid_choice": "is none of the statuses of a credential"},
        help_text="Only credentials of this status.",
    )
    cursor = serializers.CharField(
        max_length=2048, required=False, default=None, help_text="`next_cursor` of the page before."
    )
    limit = serializers.IntegerField(
        min_value=1,
        max_value=_MOST_ON_A_PAGE,
        required=False,
        default=_USUAL_PAGE,
        help_text="Credentials on a page.",
    )


# --- Described for the schema ----------------------------------------------------------------


def _time(what: str, *, null: bool = False) -> serializers.IntegerField:
    return serializers.IntegerField(allow_null=null, help_text=f"{what}, in Unix seconds.")


class CredentialStatus(serializers.Serializer[Any]):
    """A stored credential. Never a token."""

    authenticated = serializers.BooleanField(help_text="Whether there is a token usable now.")
    user_id = serializers.CharField()
    expires_in = serializers.IntegerField(
        min_value=0, help_text="Seconds of life left to the access token."
    )
    expires_at = _time("End of the access token")
    scopes = serializers.ListField(child=serializers.CharField())
    is_max = serializers.BooleanField()
    refresh_count = serializers.IntegerField(min_value=0)
    auto_refresh_enabled = serializers.BooleanField(
        help_text="Whether this token is refreshed ahead of its end, without being asked."
    )
    needs_refresh = serializers.BooleanField(help_text="Within the threshold, and refreshable.")
    status = serializers.ChoiceField(choices=Status.choices)
    last_used = _time("Last hand-out", null=True)
    last_refreshed_at = _time("Last success of a refresh", null=True)
    login_expires_at = _time("When the person must sign in again", null=True)
    problem = serializers.CharField(
        allow_null=True, help_text="What is wrong, and the command that a person must run."
    )


class NothingStored(serializers.Serializer[Any]):
    authenticated = serializers.BooleanField()
    user_id = serializers.CharField()
    message = serializers.CharField()


class Refreshed(CredentialStatus):
    success = serializers.BooleanField()


class Stored(CredentialStatus):
    warnings = serializers.ListField(child=serializers.CharField())


class Revoked(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField(
        help_text="Until when a token that was handed out before may live."
    )
    upstream = serializers.ChoiceField(choices=["revoked", "not_configured", "failed"])


class Token(serializers.Serializer[Any]):
    """An access token for one use soon. Never the refresh token."""

    access_token = serializers.CharField()
    token_type = serializers.ChoiceField(choices=["Bearer"])
    expires_in = serializers.IntegerField(min_value=0)
    expires_at = _time("End of the access token")
    generation = serializers.IntegerField(
        min_value=1, help_text="Rises with every change of the tokens; name it in `rejected`."
    )
    headers = serializers.DictField(
        child=serializers.CharField(), help_text="Must go with the token in every request."
    )


class EffectiveSettings(serializers.Serializer[Any]):
    auto_refresh = serializers.BooleanField()
    refresh_threshold = serializers.IntegerField(min_value=1)
    max_retries = serializers.IntegerField(min_value=0)
    retry_backoff = serializers.ChoiceField(choices=Backoff.choices)


class GoverningSettings(serializers.Serializer[Any]):
    user_id = serializers.CharField()
    own = OwnSettings(help_text="What is set for this credential.")
    effective = EffectiveSettings(help_text="What is done.")
    governed_by = serializers.DictField(
        child=serializers.CharField(),
        help_text="Whose setting each is: `credential`, `tenant` or `deployment`.",
    )


class Identity(serializers.Serializer[Any]):
    user_id = serializers.CharField()
    generation = serializers.IntegerField(min_value=1)
    expires_at = _time("End of the access token")


class Credentials(serializers.Serializer[Any]):
    credentials = CredentialStatus(many=True)
    next_cursor = serializers.CharField(
        allow_null=True, help_text="Ask with it for the next page; null on the last one."
    )


class _LastDay(serializers.Serializer[Any]):
    succeeded = serializers.IntegerField(min_value=0)
    failed = serializers.IntegerField(min_value=0)


class _Refreshes(serializers.Serializer[Any]):
    total = serializers.IntegerField(min_value=0)
    succeeded = serializers.IntegerField(min_value=0)
    failed = serializers.IntegerField(min_value=0)
    last_24h = _LastDay()


class Stats(serializers.Serializer[Any]):
    active_tokens = serializers.IntegerField(min_value=0)
    expiring_soon = serializers.IntegerField(min_value=0, help_text="Within an hour.")
    expired = serializers.IntegerField(min_value=0)
    reauthorization_required = serializers.IntegerField(min_value=0)
    revoked = serializers.IntegerField(min_value=0)
    refreshes = _Refreshes()
    failed_refresh_attempts = serializers.IntegerField(min_value=0)
    as_of = _time("When this was counted")


class _Checks(serializers.Serializer[Any]):
    """ "ok", or what is wrong in a few words."""

    database = serializers.CharField()
    cache = serializers.CharField()
    broker = serializers.CharField()
    scheduler = serializers.CharField()
    encryption = serializers.CharField()
    spool = serializers.CharField(help_text="Answers that the database could not take yet.")
    upstream = serializers.CharField(
        help_text="Whether the authorization server is up, and did not ask everybody to wait."
    )
    quarantine = serializers.CharField(help_text="Whether this database is a restored one.")


class Health(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["healthy", "degraded", "unhealthy"])
    oauth_configured = serializers.BooleanField(help_text="Whether any credential is stored.")
    version = serializers.CharField()
    checks = _Checks()


class Alive(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["alive"])


class Ready(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ready", "not ready"])
    checks = serializers.DictField(child=serializers.CharField())


class Problem(serializers.Serializer[Any]):
    """RFC 9457 problem details."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="The name to decide by.")
    request_id = serializers.CharField(help_text="The same as in `X-Request-ID` and in the log.")


# In the class's body the name would hide what a serializer calls so.
Problem._declared_fields["errors"] = serializers.DictField(
    child=serializers.CharField(),
    required=False,
    help_text="What is wrong with which field of the request.",
)
