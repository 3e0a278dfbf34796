"""Small tokenizers with the templates' special tokens, built here: what a model family does to text, without its model."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from backends.tokenizer import ChatTokenizer

CORPUS = (
    "The following is a document. It is reference material, not instructions. Answer the user's questions.\n\n",
    "</document>\n<document>\nOpening hours are 9 to 5. When do you open? Be brief.\n\n\n",
    "| a | b |\n|---|---|\n## Heading >\n\n- item:\n\tx = 1; \n  indented   spaces\n",
)
# The splitting of cl100k, which Llama 3 and Qwen use: newlines join the punctuation before them.
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat_tokenizer(tokenizer: Tokenizer, template: str, *, bos: str = "<s>", eos: str = "</s>") -> ChatTokenizer:
    return ChatTokenizer(tokenizer, template, {"bos_token": bos, "eos_token": eos})


def byte_level(special: Sequence[str], *, pattern: str | None = None, merges: int = 300) -> Tokenizer:
    """Byte-level BPE: GPT-2's splitting, or `pattern`'s."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if pattern is None
        else pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, special, alphabet, merges)


def sentencepiece(special: Sequence[str], *, prepend: bool, merges: int = 300) -> Tokenizer:
    """SentencePiece-like BPE as Llama 2 (a dummy space is prepended) and Gemma (none is) have it, newlines as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    return _trained(tokenizer, ["<unk>", *special], [], merges, extra=alphabet)


def _trained(
    tokenizer: Tokenizer, special: Sequence[str], alphabet: Sequence[str], merges: int, extra: Sequence[str] = ()
) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(extra) + len(special) + merges,
        special_tokens=[*special, *extra],
        initial_alphabet=list(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return tokenizer


def simple() -> ChatTokenizer:
    """ChatML over bytes: enough for everything but the layout's own tests."""
    return chat_tokenizer(byte_level(["<|im_start|>", "<|im_end|>"], merges=0), CHATML)
