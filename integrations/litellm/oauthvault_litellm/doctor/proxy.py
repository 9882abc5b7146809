"""What LiteLLM's config says, and what of it keeps the hook from doing its work."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from oauthvault_litellm import surroundings
from oauthvault_litellm.demands import AUTH, HOOK, check_config
from oauthvault_litellm.doctor.config import Config
from oauthvault_litellm.doctor.finding import Finding, ok, warning, wrong
from oauthvault_litellm.outgoing import PROVIDER, is_allowed, is_private
from oauthvault_litellm.settings import (
    Settings,
    SettingsError,
    claude_oauth_block,
    expand,
    read_settings,
)

_BLOCK = "claude_oauth"
# That everybody can look up.
_PUBLIC_MASTER_KEYS = ("sk-1234",)
_SHORTEST_MASTER_KEY = 16
_PERMIT = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"


def findings(config: Config) -> Iterator[Finding]:
    yield _callback(config)
    yield from _block(config)
    yield from _variables(config)
    yield _master_key(config)
    yield from _custom_auth(config)
    read = settings(config)
    yield from _surroundings(config, read)
    if read is None or not read.enabled:
        return
    yield from _models(config, read)
    yield from _api_keys(config, read)
    yield _response_cache(config, read)
    if read.multi_user:
        yield _users(config)


def settings(config: Config) -> Settings | None:
    """The block as the hook reads it; None where it is missing or wrong."""
    try:
        block = claude_oauth_block(config.whole)
        return None if block is None else read_settings(block, config.environ)
    except SettingsError:
        return None


def direct_bearer(config: Config) -> bool:
    return bool(config.section("general_settings").get("custom_auth") == AUTH)


def _callback(config: Config) -> Finding:
    line = f'`callbacks: ["{HOOK}"]` under litellm_settings'
    listed = _names(config.section("litellm_settings").get("callbacks"))
    if listed.count(HOOK) > 1:
        return warning("callback", f"{HOOK} stands twice under litellm_settings.callbacks")
    if HOOK in listed:
        return ok("callback", f"{HOOK} is called")
    for place, value in _other_places(config):
        if HOOK in _names(value):
            return wrong("callback", f"{HOOK} stands under {place}, where it does nothing: {line}")
    if near := difflib.get_close_matches(HOOK, listed, n=1, cutoff=0.75):
        return wrong("callback", f"{near[0]} is not the hook: did you mean {HOOK}?")
    return wrong("callback", f"the hook is not called: add {line}")


def _other_places(config: Config) -> Iterator[tuple[str, Any]]:
    for name in ("success_callback", "failure_callback", "input_callback"):
        yield f"litellm_settings.{name}", config.section("litellm_settings").get(name)
    for section in ("general_settings", "router_settings"):
        yield f"{section}.callbacks", config.section(section).get("callbacks")
    yield "callbacks at the top level", config.whole.get("callbacks")


def _names(value: Any) -> list[str]:
    several = value if isinstance(value, list) else [value]
    return [name for name in several if isinstance(name, str)]


def _block(config: Config) -> Iterator[Finding]:
    try:
        block = claude_oauth_block(config.whole)
        if block is None:
            yield wrong(_BLOCK, _where_is_the_block(config))
            return
        read = read_settings(block, config.environ)
        check_config(config.whole, read)
    except SettingsError as error:
        yield wrong(_BLOCK, str(error))
        return
    if not read.enabled:
        yield warning(_BLOCK, "claude_oauth.enabled is false: the hook touches no request")
    elif read.multi_user:
        yield ok(_BLOCK, "multi_user: everybody's requests carry a credential of their own")
    else:
        yield ok(_BLOCK, "one credential for all: that of user 'default'")
    if read.multi_user and read.offered is not None:
        yield warning(
            _BLOCK,
            "multi_user is on, so nobody uses the tokens in the block: take them out, and store "
            "each user's own in the vault",
        )
    if not _is_private(read.vault_url):
        yield warning(_BLOCK, "vault_url is not https: keys and tokens travel there in the clear")


def _where_is_the_block(config: Config) -> str:
    general = config.section("general_settings")
    if _BLOCK in config.section("litellm_settings"):
        return f"{_BLOCK} stands under litellm_settings: move it under general_settings"
    if near := difflib.get_close_matches(_BLOCK, [str(n) for n in (*general, *config.whole)], n=1):
        return f"there is no {_BLOCK}, but {near[0]}: did you mean {_BLOCK}?"
    return f"there is no {_BLOCK} block: put one under general_settings"


def _is_private(address: str) -> bool:
    parts = urlsplit(address)
    host = parts.hostname or ""
    return parts.scheme == "https" or host in ("localhost", "::1") or host.startswith("127.")


def _variables(config: Config) -> Iterator[Finding]:
    if config.unset:
        yield warning("variables", f"not set, and so as if absent: {', '.join(config.unset)}")
    literal = [place for place in config.literal if not _is_ours_to_expand(config, place)]
    if literal:
        yield warning(
            "variables",
            "${VAR} is expanded by the hook in claude_oauth and in the api_key of Anthropic's "
            f"models, and by nobody else: write os.environ/VAR in {', '.join(literal)}",
        )


def _is_ours_to_expand(config: Config, place: str) -> bool:
    if place.startswith((f"{_BLOCK}.", f"general_settings.{_BLOCK}.")):
        return True
    return any(
        place == f"model_list[{number}].litellm_params.api_key"
        for number, one in enumerate(config.whole.get("model_list") or [])
        if isinstance(one, Mapping) and is_anthropic(one)
    )


def _master_key(config: Config) -> Finding:
    general = config.section("general_settings")
    key = general.get("master_key", config.environ.get("LITELLM_MASTER_KEY"))
    key = key.strip() if isinstance(key, str) else ""
    permitted = config.environ.get(_PERMIT, "").lower() == "true" or bool(
        general.get("dangerously_permit_weak_or_unset_master_key")
    )
    make = "make one with `openssl rand -hex 32`, with sk- before it"
    if not key or key in _PUBLIC_MASTER_KEYS or "${" in key:
        what = "there is none" if not key else "everybody knows it"
        if permitted:
            return warning(
                "master key", f"{what}, and LiteLLM starts only because {_PERMIT} lets it: {make}"
            )
        return wrong("master key", f"{what}, and LiteLLM refuses to start: {make}")
    if permitted:
        return warning("master key", f"is good enough, so take {_PERMIT} away")
    if len(key) < _SHORTEST_MASTER_KEY:
        return warning("master key", f"is short enough to be guessed: {make}")
    return ok("master key", "is set")


def _custom_auth(config: Config) -> Iterator[Finding]:
    """LiteLLM drops checks of its own, for everybody, where custom_auth is set."""
    general, litellm = config.section("general_settings"), config.section("litellm_settings")
    named = general.get("custom_auth")
    if not isinstance(named, str) or not named:
        return
    if named.startswith("oauthvault_litellm") and named != AUTH:
        yield wrong("custom auth", f"{named} is none of ours: did you mean {AUTH}?")
        return
    missing = []
    if general.get("custom_auth_run_common_checks") is not True:
        missing.append("general_settings.custom_auth_run_common_checks: true")
    if litellm.get("enable_post_custom_auth_checks") is not True:
        missing.append("litellm_settings.enable_post_custom_auth_checks: true")
    if not missing:
        yield ok("custom auth", f"{named}, with LiteLLM's own checks behind it")
    elif named != AUTH:  # else the start ends with a sentence, which is said of the block
        yield warning(
            "custom auth",
            f"with {named} LiteLLM drops its own checks for everybody: set {' and '.join(missing)}",
        )


def _surroundings(config: Config, read: Settings | None) -> Iterator[Finding]:
    """What the hook itself says of the rest of the config when the proxy starts."""
    multi_user = read is not None and read.multi_user
    for sentence in surroundings.check(config.whole, multi_user=multi_user):
        yield warning("settings", sentence)
    if read is None:
        return
    endpoints = config.section("general_settings").get("pass_through_endpoints")
    for endpoint in endpoints if isinstance(endpoints, list) else ():
        if not isinstance(endpoint, Mapping):
            continue
        if is_allowed(str(endpoint.get("target") or ""), read.allowed_hosts):
            yield warning(
                "settings",
                f"general_settings.pass_through_endpoints: {endpoint.get('path')} leads to "
                "Anthropic past the hook, with the credential that stands there or that the client "
                "sends: remove it, or give it to nobody who should not have that",
            )


def _models(config: Config, read: Settings) -> Iterator[Finding]:
    ours = [one for one in config.deployments if is_anthropic(one)]
    if not ours:
        nothing = "model_list has no model of Anthropic's, so there is nothing to put a token on"
        if config.section("general_settings").get("store_model_in_db"):
            yield warning("models", f"{nothing}, unless one is in LiteLLM's database")
        else:
            yield wrong("models", f"{nothing}: litellm_params.model begins with anthropic/")
        return
    foreign = {
        f"{one.get('model_name')} ({_host(address)})": None
        for one in ours
        for address in _addresses(config, one)
        if not is_allowed(address, read.allowed_hosts)
    }
    clear = {
        _host(address)
        for one in ours
        for address in _addresses(config, one)
        if is_allowed(address, read.allowed_hosts) and not is_private(address)
    }
    if clear:
        yield wrong(
            "models",
            "served over plain http, where others can read a token, so requests are refused: "
            f"{', '.join(sorted(clear))}. Give api_base as https",
        )
    if foreign:
        yield wrong(
            "models",
            "served by a host that may not see a token, so requests are refused: "
            f"{', '.join(foreign)}. Hosts that may are in claude_oauth.allowed_hosts",
        )
    elif not clear:
        names = dict.fromkeys(str(one.get("model_name")) for one in ours)
        yield ok("models", f"{', '.join(names)}: at {', '.join(sorted(read.allowed_hosts))}")


def is_anthropic(deployment: Mapping[str, Any]) -> bool:
    """Whether a deployment goes to Anthropic: as LiteLLM reads it off provider and model."""
    params = deployment.get("litellm_params")
    if not isinstance(params, Mapping):
        return False
    model = str(params.get("model") or "")
    provider = params.get("custom_llm_provider")
    if provider:
        return bool(provider == PROVIDER)
    return model.startswith((f"{PROVIDER}/", "claude-")) or model == "*"


def _addresses(config: Config, deployment: Mapping[str, Any]) -> list[str]:
    """Where a deployment's requests may go: its own address, else the process's. None: Anthropic's
    own."""
    params = deployment["litellm_params"]
    stored = _stored_credential(config, params)
    own = [source.get(name) for source in (params, stored) for name in ("api_base", "base_url")]
    everybodys = [
        config.section("litellm_settings").get("api_base"),
        config.environ.get("ANTHROPIC_API_BASE"),
        config.environ.get("ANTHROPIC_BASE_URL"),
    ]
    for addresses in (own, everybodys, ["https://api.anthropic.com"]):
        if any(addresses):
            return [str(address) for address in addresses if address]
    return []


def _stored_credential(config: Config, params: Mapping[str, Any]) -> Mapping[str, Any]:
    name = params.get("litellm_credential_name")
    for one in config.whole.get("credential_list") or [] if name else ():
        if isinstance(one, Mapping) and one.get("credential_name") == name:
            values = one.get("credential_values")
            return values if isinstance(values, Mapping) else {}
    return {}


def _host(address: str) -> str:
    """The host alone: an address may have a password in it."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or "no host"
    except ValueError:
        return "no host"


def _api_keys(config: Config, read: Settings) -> Iterator[Finding]:
    """Anthropic's API keys in the proxy's hands, and whom they serve."""
    without = [
        str(one.get("model_name"))
        for one in config.deployments
        if is_anthropic(one) and _api_key_is_unset(config, one["litellm_params"])
    ]
    if without and read.fallback_to_api_key:
        yield warning(
            "api key",
            f"the api_key of {', '.join(dict.fromkeys(without))} is a variable that is not set, "
            "so there is nothing to fall back to",
        )
    if config.environ.get("ANTHROPIC_API_KEY"):
        if read.fallback_to_api_key:
            says = "it pays for whoever has no token, for fallback_to_api_key is on"
        else:
            says = "it serves LiteLLM's /health and no caller, for fallback_to_api_key is off"
        yield ok("api key", f"ANTHROPIC_API_KEY is set: {says}")
    if config.environ.get("ANTHROPIC_AUTH_TOKEN"):
        yield warning(
            "api key",
            "ANTHROPIC_AUTH_TOKEN is set, which LiteLLM presents to Anthropic by itself where it "
            "has nothing else: unset it",
        )


def _api_key_is_unset(config: Config, params: Mapping[str, Any]) -> bool:
    """An api_key that was written and comes to nothing."""
    if "api_key" not in params:
        return False
    key = params["api_key"]
    return not key or (isinstance(key, str) and not expand(key, config.environ))


def _response_cache(config: Config, read: Settings) -> Finding:
    place = next(
        (
            f"{section}.{name}"
            for section, name in (
                ("litellm_settings", "cache"),
                ("router_settings", "cache_responses"),
            )
            if config.section(section).get(name)
        ),
        None,
    )
    if place is None:
        return ok("responses", "are not cached")
    if read.multi_user:
        return ok("responses", f"{place} is on, and keeps nothing of Anthropic's models")
    return warning(
        "responses",
        f"{place} is on: what is cached is answered without a token, after a revocation too",
    )


def _users(config: Config) -> Finding:
    """Under multi_user somebody must be able to have a key with a user id."""
    general = config.section("general_settings")
    if general.get("custom_auth") and not direct_bearer(config):
        return ok("users", "custom_auth says who is asking")
    if general.get("enable_jwt_auth"):
        return ok("users", "LiteLLM's JWT authentication says who is asking")
    if general.get("database_url") or config.environ.get("DATABASE_URL"):
        return ok("users", "LiteLLM has a database for keys with a user id")
    if direct_bearer(config):
        return warning(
            "users",
            "LiteLLM has no database, so nobody has a key with a user id: only those who present "
            "their own Claude token are served",
        )
    return wrong(
        "users",
        "nobody can have a key with a user id, and under multi_user any other is refused: give "
        "LiteLLM a database (DATABASE_URL) and make keys with POST /key/generate",
    )
