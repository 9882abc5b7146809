"""`/auth/claude/token` and below: where a token enters, and the one place where it leaves."""

from typing import ClassVar

from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from api import answers, openapi, serializers
from api.ahead import refresh_behind
from api.keys import Scope
from api.preferences import has_already, only_if_absent, wait_preferred
from api.views.base import VaultView
from tokens import clock, importing, vault
from tokens.credential_file import parse_credentials
from tokens.secret import AccessToken

_TOKEN_EXAMPLE = OpenApiExample(
    "token",
    value={
        "access_token": "the access token",
        "token_type": "Bearer",
        "expires_in": 3542,
        "expires_at": 1790000000,
        "generation": 3,
        "headers": dict(answers.REQUIRED_HEADERS),
    },
    response_only=True,
)
_FILE_EXAMPLE = OpenApiExample(
    ".credentials.json",
    value={
        "claudeAiOauth": {
            "accessToken": "the access token",
            "refreshToken": "the refresh token",
            "expiresAt": 1790000000000,
            "scopes": ["user:inference", "user:profile"],
            "subscriptionType": "max",
        }
    },
    request_only=True,
)


class TokenView(VaultView):
    required_scopes: ClassVar = {"GET": Scope.TOKEN_READ, "PUT": Scope.TOKEN_WRITE}

    @extend_schema(
        operation_id="issue_access_token",
        summary="Hand out the user's access token",
        parameters=[openapi.USER, openapi.PREFER, openapi.IF_NONE_MATCH, openapi.ETAG],
        responses={
            200: serializers.Token,
            304: None,
            **openapi.refusals(
                *openapi.FOR_USER, "no_token", "token_expired", "revoked", *openapi.REFRESHING
            ),
        },
        examples=[_TOKEN_EXAMPLE],
    )
    def get(self, request: Request) -> Response:
        """The living token at once; past its end, after the one refresh, for up to 10 s."""
        caller, user_id = self.caller(), self.user_id()
        handed_out = vault.issue_access_token(
            tenant=caller.tenant,
            user_id=user_id,
            actor=caller.actor,
            wait=wait_preferred(request),
            now=clock.now(),
        )
        if handed_out.refresh_due:
            refresh_behind(handed_out, actor=caller.actor)
        etag = answers.etag(handed_out)
        if has_already(request, etag):
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
        return Response(answers.token(handed_out, now=clock.now()), headers={"ETag": etag})

    @extend_schema(
        operation_id="import_credential",
        summary="Import a credential",
        parameters=[openapi.USER, openapi.IF_NONE_MATCH],
        request={"application/json": openapi.CREDENTIALS_FILE},
        responses={
            200: serializers.Stored,
            201: serializers.Stored,
            **openapi.refusals(
                *openapi.FOR_USER,
                "invalid_json",
                "stale_credential",
                "already_stored",
                "precondition_failed",
                "unsupported_media_type",
                "invalid_credentials_file",
            ),
        },
        examples=[_FILE_EXAMPLE],
    )
    def put(self, request: Request) -> Response:
        """Store this login as the user's, in place of what is there."""
        caller, user_id = self.caller(), self.user_id()
        now = clock.now()
        result = importing.import_credential(
            tenant=caller.tenant,
            user_id=user_id,
            offered=parse_credentials(request.data, now=now),
            actor=caller.actor,
            only_if_absent=only_if_absent(request),
            now=now,
        )
        return Response(
            answers.imported(result, now=now),
            status=status.HTTP_201_CREATED if result.created else status.HTTP_200_OK,
        )


class RejectedView(VaultView):
    required_scopes: ClassVar = {"POST": Scope.TOKEN_READ}

    @extend_schema(
        operation_id="report_rejected",
        summary="Report that upstream answered 401",
        parameters=[openapi.USER, openapi.PREFER, openapi.ETAG],
        request=serializers.RejectedRequest,
        responses={
            200: serializers.Token,
            **openapi.refusals(
                *openapi.FOR_USER,
                "invalid_json",
                "no_token",
                "token_expired",
                "revoked",
                "unsupported_media_type",
                *openapi.REFRESHING,
            ),
        },
        examples=[_TOKEN_EXAMPLE],
    )
    def post(self, request: Request) -> HttpResponseBase:
        """A newer token if there is one, else one after a refresh."""
        caller, user_id = self.caller(), self.user_id()
        report = serializers.RejectedRequest(data=request.data)
        report.is_valid(raise_exception=True)
        handed_out = vault.report_rejected(
            tenant=caller.tenant,
            user_id=user_id,
            generation=report.validated_data["generation"],
            actor=caller.actor,
            wait=wait_preferred(request),
            now=clock.now(),
        )
        return Response(
            answers.token(handed_out, now=clock.now()),
            headers={"ETag": answers.etag(handed_out)},
        )


class IdentifyView(VaultView):
    required_scopes: ClassVar = {"POST": Scope.TOKEN_IDENTIFY}
    service_keys_only = True

    @extend_schema(
        operation_id="identify",
        summary="Whose current token is this?",
        request=serializers.IdentifyRequest,
        responses={
            200: serializers.Identity,
            **openapi.refusals(
                *openapi.WITH_KEY,
                "invalid_request",
                "invalid_json",
                "no_token",
                "unsupported_media_type",
            ),
        },
        examples=[
            OpenApiExample("token", value={"access_token": "an access token"}, request_only=True)
        ],
    )
    def post(self, request: Request) -> Response:
        """The user of this tenant who holds exactly this access token now."""
        shown = serializers.IdentifyRequest(data=request.data)
        shown.is_valid(raise_exception=True)
        found = vault.identify(
            tenant=self.caller().tenant,
            access_token=AccessToken(shown.validated_data["access_token"]),
        )
        return Response(answers.identity(found))
