"""What all addresses of the vault have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.bodies import StrictJSONParser, refuse_unknown
from api.callers import Caller
from api.keys import Scope
from api.problems import exception_handler


class OnlyJson(BaseContentNegotiation):
    """One representation, whatever the caller accepts: a proxy's `Accept` must not make 406."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


class VaultView(APIView):
    """Keys by default, refusals as problems, nothing stored on the way.

    ``required_scopes`` names the scope for each method; ``query_fields`` what may stand
    behind a question mark, for what nobody reads must not look as if it counted.
    """

    required_scopes: ClassVar[Mapping[str, Scope]] = {}
    service_keys_only: ClassVar[bool] = False
    query_fields: ClassVar[frozenset[str]] = frozenset()

    content_negotiation_class = OnlyJson
    parser_classes: Sequence[type[BaseParser]] = (StrictJSONParser,)
    http_method_names = ("get", "head", "post", "put", "delete")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        refuse_unknown(request.query_params, known=self.query_fields)

    def get_exception_handler(self) -> Any:
        return exception_handler

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        response["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)

    def caller(self) -> Caller:
        caller = self.request.auth
        assert isinstance(caller, Caller)  # noqa: S101  the permission saw to it
        return caller

    def user_id(self) -> str:
        """Whose credential this request is about."""
        return self.caller().user_of(self.request._request)


class KeylessView(VaultView):
    """For anybody; what comes back is nobody's."""

    authentication_classes = ()
    permission_classes = ()
