"""Answers of caption models that are not captions."""

from __future__ import annotations

import re

REFUSAL = re.compile(
    r"^\W*(i('m| am) (sorry|unable|not able)|sorry\b|i (can('|no)?t|cannot|can not|won't)\b"
    r"|as an ai\b|unfortunately, i\b|error:|traceback|cuda out of memory|no image (was )?provided)",
    re.IGNORECASE,
)
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
ROLE = re.compile(r"^\s*(assistant|caption|description)\s*:\s*", re.IGNORECASE)


def refuses(caption: str) -> bool:
    """Whether a text says that there is no caption, or is an error message."""
    return bool(REFUSAL.search(caption))


def opens_like_boilerplate(caption: str) -> bool:
    """Whether a caption begins with words such as "This image shows"."""
    return bool(BOILERPLATE.search(caption))


def repeats_itself(caption: str) -> bool:
    """Whether a run of words comes three times in a row, or a single word five times."""
    words = caption.casefold().split()
    for size in (1, 2, 3, 4, 6, 8):
        times = 5 if size == 1 else 3
        for start in range(len(words) - size * times + 1):
            part = words[start : start + size]
            if all(words[start + k * size : start + (k + 1) * size] == part for k in range(times)):
                return True
    return False


def is_unfinished(caption: str) -> bool:
    """Whether a caption of sentences ends within one, as at a limit of tokens."""
    text = caption.rstrip()
    ends = re.search(END + CLOSING + "*$", text)
    return ends is None and SENTENCES.search(text) is not None


def tidied(answer: str) -> str:
    """An answer without reasoning, role, surrounding quotes and line breaks."""
    text = ROLE.sub("", THOUGHT.sub("", answer)).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" and text.count(text[0]) == 2:
        text = text[1:-1].strip()
    return re.sub(r"[ \t]*\n+[ \t]*", " ", text)


def problem(caption: str) -> str:
    """Why a tidied answer is not a caption; empty if it is one."""
    if not caption:
        return "the answer is empty"
    if refuses(caption):
        return "the model refused"
    return "the model repeats itself" if repeats_itself(caption) else ""
