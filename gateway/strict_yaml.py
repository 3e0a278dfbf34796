"""YAML into frozen msgspec structs, reporting every problem at once with the file, the path in it and what is allowed.

msgspec stops at the first error, so the struct's fields are walked here and only leaves are left to it. Serves
`gateway/config.py` and `gateway/shelf/catalog_file.py`; knows neither.
"""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from router.characters import check_shown
from router.errors import InvalidRequest

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """Everything that is wrong with a file, a line a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Loader(yaml.SafeLoader):
    """A key that stands twice in a mapping is an error: YAML itself lets the last one win in silence.

    And so is a value that is not what it is written as, like a 32nd of May: with its place in the file.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"`{node.value!s:.40}` is not what it is written as; in quotes it would be text", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # which is refused for being a key at all
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path, kind: type[S]) -> S:
    """The file as a `kind`. Relative paths in it are taken from the file's own folder. Raises ConfigError."""
    try:
        raw = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 - a SafeLoader  # nosec B506
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 (byte {error.start})"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError([f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    problems: list[str] = []
    value = _convert(raw, kind, "", path.resolve().parent, problems)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return typing.cast(S, value)


def _convert(raw: Any, kind: Any, at: str, base: Path, problems: list[str]) -> Any:
    """`raw` as a `kind`; on failure None, with what is wrong added to `problems`."""
    struct = _struct_in(kind)
    if struct is not None:
        if raw is None and _optional(kind):
            return None
        return _convert_struct(raw, struct, at, base, problems)
    item = _tuple_item(kind)
    if item is not None and isinstance(raw, list):
        return tuple(_convert(value, item, f"{at}[{number}]", base, problems) for number, value in enumerate(raw))
    named = _mapped_struct(kind)
    if named is not None and isinstance(raw, dict):
        return {str(name): _convert_struct(value, named, _join(at, name), base, problems) for name, value in raw.items()}
    try:
        return msgspec.convert(raw, kind, dec_hook=lambda hint, value: _leaf(hint, value, base))
    except msgspec.ValidationError as error:
        # msgspec's own path ("$[0]") is relative to the leaf; ours is the whole.
        words, _, inner = str(error).partition(" - at `$")
        problems.append(f"`{at}{inner.rstrip('`')}`: {words} (got {raw!r:.80})")
        return None


def _convert_struct(raw: Any, struct: type[msgspec.Struct], at: str, base: Path, problems: list[str]) -> Any:
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else f"{raw!r:.80}"
        problems.append(f"`{at or '(the whole file)'}`: expected a mapping, got {got}")
        return None
    before = len(problems)
    hints = typing.get_type_hints(struct, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    values: dict[str, Any] = {}
    for name in raw:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"allowed: {', '.join(fields)}"
            problems.append(f"`{_join(at, name)}`: unknown field; {hint}")
    for name, field in fields.items():
        if name in raw:
            values[field.name] = _convert(raw[name], hints[field.name], _join(at, name), base, problems)
        elif field.required:
            problems.append(f"`{_join(at, name)}`: missing, and it has no default")
    if len(problems) > before:
        return None
    try:
        return struct(**values)
    except ValueError as error:  # a struct's own __post_init__
        problems.append(f"`{at or '(the whole file)'}`: {error}")
        return None


def _leaf(hint: Any, value: Any, base: Path) -> Any:
    if hint is Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a path, got {value!r}")
        try:
            check_shown((value,), what="path")
        except InvalidRequest as error:
            raise ValueError(str(error)) from error
        # Not resolved: a virtual environment's interpreter must stay the link that it is.
        return Path(value).expanduser() if Path(value).expanduser().is_absolute() else base / value
    raise NotImplementedError(hint)


def _join(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)


def _union_members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _optional(kind: Any) -> bool:
    return type(None) in _union_members(kind)


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    for member in _union_members(kind):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return member
    return None


def _tuple_item(kind: Any) -> Any | None:
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (Ellipsis,):
        return typing.get_args(kind)[0]
    return None


def _mapped_struct(kind: Any) -> type[msgspec.Struct] | None:
    """What a mapping of names to structs holds."""
    return _struct_in(typing.get_args(kind)[1]) if typing.get_origin(kind) is dict else None
