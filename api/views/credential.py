"""`/auth/claude/{status,refresh,revoke,credentials}`: a person's credential, never a token."""

from typing import ClassVar

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from api import answers, openapi, serializers
from api.bodies import StrictJSONParser, expect_no_fields
from api.keys import Scope
from api.preferences import wait_preferred
from api.views.base import VaultView
from tokens import clock, listing, own_settings, vault
from tokens.models import Status

# For requests without fields: a form of no fields is as good as no body.
_ANY_PARSER = (StrictJSONParser, FormParser, MultiPartParser)


class StatusView(VaultView):
    required_scopes: ClassVar = {"GET": Scope.STATUS_READ}

    @extend_schema(
        operation_id="status",
        summary="Check OAuth token status",
        parameters=[openapi.USER],
        responses={
            200: PolymorphicProxySerializer(
                component_name="StatusOrNothing",
                serializers=[serializers.CredentialStatus, serializers.NothingStored],
                resource_type_field_name=None,
            ),
            **openapi.refusals(*openapi.FOR_USER),
        },
    )
    def get(self, request: Request) -> Response:
        """The stored credential of a user, or that nothing is stored."""
        tenant, user_id = self.caller().tenant, self.user_id()
        now = clock.now()
        credential = vault.describe(tenant=tenant, user_id=user_id)
        return Response(answers.status(credential, user_id=user_id, now=now))


class RefreshView(VaultView):
    required_scopes: ClassVar = {"POST": Scope.TOKEN_REFRESH}
    parser_classes = _ANY_PARSER

    @extend_schema(
        operation_id="refresh",
        summary="Manually refresh the OAuth token",
        parameters=[openapi.USER, openapi.PREFER],
        request=None,
        responses={
            200: serializers.Refreshed,
            **openapi.refusals(*openapi.FOR_USER, "no_token", *openapi.REFRESHING),
        },
    )
    def post(self, request: Request) -> Response:
        """Ask upstream for a new pair. One refresh under way serves all who ask; a demand
        within 10 s of the last success is answered by it."""
        caller, user_id = self.caller(), self.user_id()
        expect_no_fields(request)
        credential = vault.refresh_now(
            tenant=caller.tenant,
            user_id=user_id,
            actor=caller.actor,
            wait=wait_preferred(request),
            now=clock.now(),
        )
        return Response(answers.refreshed(credential, now=clock.now()))


class RevokeView(VaultView):
    required_scopes: ClassVar = {"DELETE": Scope.TOKEN_REVOKE}
    parser_classes = _ANY_PARSER

    @extend_schema(
        operation_id="revoke",
        summary="Revoke OAuth tokens",
        parameters=[openapi.USER],
        request=None,
        responses={
            200: serializers.Revoked,
            **openapi.refusals(*openapi.FOR_USER, "no_token"),
        },
    )
    def delete(self, request: Request) -> Response:
        """Destroy the sealed tokens; the record and its history stay."""
        caller, user_id = self.caller(), self.user_id()
        expect_no_fields(request)
        revocation = vault.revoke(
            tenant=caller.tenant, user_id=user_id, actor=caller.actor, now=clock.now()
        )
        return Response(answers.revoked(revocation))


class SettingsView(VaultView):
    """Of one credential: how its refreshes are done. Its person has no say in it."""

    required_scopes: ClassVar = {"GET": Scope.STATUS_READ, "PUT": Scope.TOKEN_WRITE}
    service_keys_only = True

    @extend_schema(
        operation_id="settings",
        summary="Show how a credential is refreshed",
        parameters=[openapi.USER],
        responses={
            200: serializers.GoverningSettings,
            **openapi.refusals(*openapi.FOR_USER, "no_token"),
        },
    )
    def get(self, request: Request) -> Response:
        """What it has of its own, what is done, and whose setting that is. For service keys."""
        credential = own_settings.describe_settings(
            tenant=self.caller().tenant, user_id=self.user_id()
        )
        return Response(answers.settings(credential))

    @extend_schema(
        operation_id="set_settings",
        summary="Set how a credential is refreshed",
        parameters=[openapi.USER],
        request=serializers.OwnSettings,
        responses={
            200: serializers.GoverningSettings,
            **openapi.refusals(
                *openapi.FOR_USER, "invalid_json", "no_token", "unsupported_media_type"
            ),
        },
    )
    def put(self, request: Request) -> Response:
        """All four at once: what is null or left out is as the tenant is set. They stay through
        refreshes and new logins of the user. For service keys."""
        caller, user_id = self.caller(), self.user_id()
        wanted = serializers.OwnSettings(data=request.data)
        wanted.is_valid(raise_exception=True)
        credential = own_settings.set_own_settings(
            tenant=caller.tenant,
            user_id=user_id,
            actor=caller.actor,
            now=clock.now(),
            **wanted.validated_data,
        )
        return Response(answers.settings(credential))


class CredentialsView(VaultView):
    required_scopes: ClassVar = {"GET": Scope.STATUS_READ}
    service_keys_only = True
    query_fields = frozenset({"status", "cursor", "limit"})

    @extend_schema(
        operation_id="credentials",
        summary="List the tenant's credentials",
        parameters=[serializers.CredentialsQuery],
        responses={
            200: serializers.Credentials,
            **openapi.refusals(*openapi.WITH_KEY, "invalid_request"),
        },
    )
    def get(self, request: Request) -> Response:
        """By user id, page by page, without secrets. For service keys."""
        query = serializers.CredentialsQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = query.validated_data
        now = clock.now()
        page = listing.list_credentials(
            tenant=self.caller().tenant,
            status=None if wanted["status"] is None else Status(wanted["status"]),
            after=answers.after_cursor(wanted["cursor"]),
            limit=wanted["limit"],
            now=now,
        )
        return Response(answers.credentials(page, now=now))
