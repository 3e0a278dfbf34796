"""A model's tokenizer and chat template, from its Hugging Face folder, without transformers.

`tokenizers` does the tokens, jinja2 the template, in the sandbox and with the few names that Hugging Face's
templates expect. Fits `router.prompts.Tokenizer`; the layout of a prompt is that module's business.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from router.errors import InvalidRequest, LayoutError
from router.prompts import Message

LONG_CHARACTERS = 20_000

_MARKUP = re.compile(r"<[^\s>]+>|\[[A-Z_/]+\]")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""How SentencePiece spells a byte for which it has no token."""


class ChatTokenizer:
    """Renders and encodes. Stateless after construction; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, template: str, special_tokens: dict[str, str] | None = None) -> None:
        """`special_tokens`: the names a template may use (`bos_token`, …) and their texts."""
        self._tokenizer = tokenizer
        self._names = special_tokens or {}
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        # `strftime_now` is left undefined on purpose: a date in the head would make every cache a day old at most.
        # Templates that know it fall back to a fixed date.
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateSyntaxError as error:
            raise LayoutError(f"The chat template is not valid Jinja: {error}") from error
        added = tokenizer.get_added_tokens_decoder()
        # Also those that only look special: `<think>` and `[TOOL_CALLS]` steer a model as well. Runs of spaces don't.
        control = {
            number: token.content
            for number, token in added.items()
            if (token.special or _MARKUP.fullmatch(token.content)) and not _BYTE.fullmatch(token.content)
        }
        texts = sorted((text for text in control.values() if len(text) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts))) if texts else None
        for text in texts:
            if control.keys() & set(self.encode(self.neutralise(text))):
                raise LayoutError(
                    f"The model's tokenizer reads {self.neutralise(text)!r} as the control token {text!r}, so documents could pose as "
                    "the template. kvshelf does not serve such a model."
                )
        self.digest = hashlib.sha256("\0".join((tokenizer.to_str(), template, json.dumps(self._names))).encode()).hexdigest()

    def render(self, messages: Sequence[Message]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {error}", param="messages") from error

    def encode(self, text: str) -> list[int]:
        if len(text) <= LONG_CHARACTERS:
            short: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return short
        # A batch is encoded without the interpreter's lock: other requests go on meanwhile, for a megabyte a second or more. Short
        # texts don't go that way, where they might wait for the threads that are busy with a long one.
        (found,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = found.ids
        return ids

    def neutralise(self, text: str) -> str:
        """A zero-width space after its first character: the model reads the same words, but no control token."""
        if self._special is None:
            return text
        return self._special.sub(lambda match: f"{match[0][0]}\u200b{match[0][1:]}", text)


def load(folder: Path) -> ChatTokenizer:
    """The tokenizer of a Hugging Face model folder. Raises LayoutError that names what is missing."""
    try:
        tokenizer = Tokenizer.from_file(str(_need(folder, "tokenizer.json")))
        settings = json.loads(_need(folder, "tokenizer_config.json").read_text("utf-8"))
        separate = folder / "chat_template.jinja"
        template = separate.read_text("utf-8") if separate.is_file() else settings.get("chat_template")
    except LayoutError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        raise LayoutError(f"The tokenizer in {folder} can't be read: {error}") from error
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise LayoutError(f"{folder} has no chat template (neither chat_template.jinja nor one in tokenizer_config.json).")
    return ChatTokenizer(tokenizer, template, _special_tokens(settings))


def _need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise LayoutError(f"{path} is missing: `model.path` must be a Hugging Face model folder.")
    return path


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """`bos_token` and its like, each either a string or a mapping with its `content`."""
    named = {
        name: value["content"] if isinstance(value, dict) else value for name, value in settings.items() if name.endswith("_token")
    }
    return {name: text for name, text in named.items() if isinstance(text, str)}


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
