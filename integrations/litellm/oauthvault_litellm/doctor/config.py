"""LiteLLM's config file as the hook will find it once the proxy has read it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_REFERENCE = "os.environ/"
_SECTIONS = ("general_settings", "litellm_settings", "router_settings", "environment_variables")


class ConfigError(Exception):
    """The file cannot be read as a config. The text quotes nothing of what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    whole: Mapping[str, Any]  # with os.environ/VAR replaced: None where the variable is not set
    environ: Mapping[str, str]  # as the hook will see it: `environment_variables` are in it
    unset: tuple[str, ...] = field(default=())  # where a variable is named that is not set
    literal: tuple[str, ...] = field(default=())  # where ${VAR} stands; LiteLLM leaves it so

    def section(self, name: str) -> Mapping[str, Any]:
        return self.whole.get(name) or {}

    @property
    def deployments(self) -> list[Mapping[str, Any]]:
        return [one for one in self.whole.get("model_list") or [] if isinstance(one, Mapping)]


def read_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The config with its includes, in LiteLLM's order: first os.environ/VAR is replaced, then
    `environment_variables` are set, then the hook reads its block. Raises :class:`ConfigError`."""
    written = _with_includes(path)
    for name in _SECTIONS:
        if not isinstance(written.get(name) or {}, Mapping):
            raise ConfigError(f"{name} in {path} must be a mapping")
    if not isinstance(written.get("model_list") or [], list):
        raise ConfigError(f"model_list in {path} must be a list")
    whole = _resolved(written, environ)
    more = whole.get("environment_variables") or {}
    return Config(
        whole=whole,
        environ={**environ, **{str(k): str(v) for k, v in more.items() if v is not None}},
        unset=tuple(
            f"{place} ({text})"
            for place, text in _texts(written)
            if text.startswith(_REFERENCE) and text.removeprefix(_REFERENCE) not in environ
        ),
        literal=tuple(place for place, text in _texts(written) if "${" in text),
    )


def _with_includes(path: Path) -> dict[str, Any]:
    """The file and what it includes: lists are joined, anything else is replaced by the later."""
    config = _load(path)
    waiting = [(entry, path) for entry in _includes(config, path)]
    known = {path.resolve()}
    while waiting:
        entry, named_in = waiting.pop(0)
        included = named_in.parent / entry
        if not included.exists():
            included = path.parent / entry
        if included.resolve() in known:
            continue
        known.add(included.resolve())
        more = _load(included)
        waiting += [(entry, included) for entry in _includes(more, included)]
        for name, value in more.items():
            before = config.get(name)
            both = isinstance(value, list) and isinstance(before, list)
            config[name] = [*before, *value] if both else value  # type: ignore[misc]
    return config


def _load(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "PyYAML is not installed here, and LiteLLM brings it: run this with the Python that "
            "runs the proxy"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    except yaml.YAMLError as error:
        # Without what the parser says: it quotes the line, and a key may stand there.
        mark = getattr(error, "problem_mark", None)
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not YAML{where}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping, with model_list and general_settings")
    return content


def _includes(config: dict[str, Any], path: Path) -> list[str]:
    entries = config.pop("include", None) or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"include in {path} must be a list of file names")
    return entries


def _resolved(value: Any, environ: Mapping[str, str]) -> Any:
    """As LiteLLM does it: also in mappings of a list, not in its texts."""
    if isinstance(value, dict):
        return {name: _resolved(inner, environ) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, environ) if isinstance(inner, dict) else inner for inner in value]
    if isinstance(value, str) and value.startswith(_REFERENCE):
        return environ.get(value.removeprefix(_REFERENCE))
    return value


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of the config with its place: ``model_list[0].litellm_params.api_key``."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{number}]")
    elif isinstance(value, str):
        yield place, value
