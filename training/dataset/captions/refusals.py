"""Answers of caption models that are not captions."""

from __future__ import annotations

import re

REFUSAL = re.compile(
    r"^\W*(i('m| am) (sorry|afraid|unable|not able)|i (do )?apologi[sz]e|(my|our) apologies"
    r"|sorry\W+(but|i|we|there|no|this|that|the (image|picture|photo))\b|sorry\W*$"
    r"|i (can('|no)?t|cannot|can not|won't|(do not|don't) (see|have))\b"
    r"|as an ai\b|unfortunately, i\b|error:|traceback|cuda out of memory|no image (was )?provided"
    r"|(\u975e\u5e38|\u6211\u5f88|\u5f88)?(\u62b1\u6b49|\u5bf9\u4e0d\u8d77)"
    r"|\u6211(\u65e0\u6cd5|\u4e0d\u80fd)|\u4f5c\u4e3a(\u4e00\u4e2a)?(ai|\u4eba\u5de5)"
    r"|\u7533\u3057\u8a33|\u3059\u307f\u307e\u305b\u3093|\uc8c4\uc1a1)",
    re.IGNORECASE,
)
"""An apology or an error, in English, Chinese, Japanese and Korean"""
BOILERPLATE = re.compile(
    r"^\W*((this|the) (image|picture|photo|photograph) (shows|depicts|features|displays|is of)"
    r"|(in this|the) (image|picture|photo),|here is a caption|caption:|sure[,!])",
    re.IGNORECASE,
)
END = r"[.!?\u2026\u203c\u2047-\u2049\u3002\uff01\uff0e\uff1f\uff61]"
CLOSING = r"[\"'`*_)\]}>\u00bb\u2018-\u201f\u203a\u300b\u300d\u300f\u3011\uff02\uff07\uff09]"
# A sentence that ends before another one begins.
SENTENCES = re.compile(rf"\w{{3,}}[.!?]{CLOSING}*\s+[A-Z]|[\u3002\uff01\uff1f]{CLOSING}*\s*\w")
# The reasoning of models that show it, even if it is cut off.
THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
# What models write for themselves: ends of texts and turns.
SIGNS = re.compile(
    r"</?s>|<\|[\w-]+\|>|<(pad|bos|eos|unk|(start|end)_of_(turn|utterance))>|\[/?INST\]",
    re.IGNORECASE,
)
TURN = re.compile(r"^\s*assistant\s*[:\n]\s*", re.IGNORECASE)
WIDE = "\u3001-\u3003\u3040-\u30ff\u3400-\u9fff\uff0c\uff1b"
LETTERS = re.compile(rf"([{WIDE}]{{2,40}}?)\1{{2}}|([{WIDE}])\2{{7}}")
ROLE = re.compile(r"^\s*(assistant|caption|description)\s*:\s*", re.IGNORECASE)


def refuses(caption: str) -> bool:
    """Whether a text says that there is no caption, or is an error message."""
    return bool(REFUSAL.search(caption))


def opens_like_boilerplate(caption: str) -> bool:
    """Whether a caption has words of a model: "This image shows", a role, or signs of its own."""
    return bool(BOILERPLATE.search(caption) or TURN.match(caption) or SIGNS.search(caption))


def without_signs(text: str) -> str:
    """The text without a model's own signs and the role in front of its answer."""
    return TURN.sub("", SIGNS.sub(" ", text)).strip() if SIGNS.search(text) else TURN.sub("", text)


def repeats_itself(caption: str) -> bool:
    """Whether some words come three times in a row, or a single word five times.

    In scripts without blanks that is some letters, or a single one eight times.
    """
    words = [word.strip(".,;:!?") for word in caption.casefold().split()]
    for size in range(1, len(words) // 3 + 1):
        times = 5 if size == 1 else 3
        for start in range(len(words) - size * times + 1):
            part = words[start : start + size]
            if all(words[start + k * size : start + (k + 1) * size] == part for k in range(times)):
                return True
    return LETTERS.search(caption) is not None


def is_unfinished(caption: str) -> bool:
    """Whether a caption of sentences ends within one, as at a limit of tokens."""
    text = caption.rstrip()
    ends = re.search(END + CLOSING + "*$", text)
    return ends is None and SENTENCES.search(text) is not None


def tidied(answer: str) -> str:
    """An answer without reasoning, role, surrounding quotes and line breaks."""
    text = ROLE.sub("", without_signs(THOUGHT.sub("", answer))).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" and text.count(text[0]) == 2:
        text = text[1:-1].strip()
    return re.sub(r"[ \t]*\n+[ \t]*", " ", text)


def problem(caption: str) -> str:
    """Why a tidied answer is not a caption; empty if it is one."""
    if not caption:
        return "the answer is empty"
    if not any(map(str.isalnum, caption)):
        return "the answer has no words"
    if refuses(caption):
        return "the model refused"
    return "the model repeats itself" if repeats_itself(caption) else ""
