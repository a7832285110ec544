"""Questions for caption models: describe what varies, leave out what the concept should absorb."""

from __future__ import annotations

from enum import Enum


class Preset(str, Enum):
    """The subject that the pictures have in common."""

    ANYTHING = "anything"
    PERSON = "person"
    CHARACTER = "character"
    OBJECT = "object"
    STYLE = "style"
    TAGS = "tags"
    CUSTOM = "own prompt"


OPENING = "Write one caption for this picture, as plain text of one or two sentences."
MANNERS = (
    "Begin with the subject at once, without words such as this image shows. State only what can "
    "be seen; no guesses, moods or praise."
)
SUBJECTS = {
    Preset.PERSON: "Call the main person {name}. Describe pose, expression, clothes, place, light "
    "and framing. Leave out hair, eyes, skin, face, body, age and who it may be.",
    Preset.CHARACTER: "Call the main character {name}. Describe pose, expression, action, place, "
    "light and framing. Leave out looks, outfit and things that always belong to the character.",
    Preset.OBJECT: "Call the main object {name}. Describe where it is, how it is seen, what is "
    "around it, light and use. Leave out its color, material, shape, brand and any writing on it.",
    Preset.STYLE: "Describe everything in it: subjects, action, place, colors of things, framing. "
    "Leave out style, technique, medium, artist and period.",
    Preset.ANYTHING: "Describe subject, action, place, light and framing.",
}


def preset_prompt(preset: Preset, placeholder: str, class_word: str, own: str) -> str:
    """The question for a model that follows instructions.

    {name} in a prompt of the user's own becomes placeholder and class word. Raises ValueError if
    that prompt is empty.
    """
    name = f"{placeholder} {class_word}".strip() or "the subject"
    if preset is Preset.CUSTOM:
        if not own.strip():
            raise ValueError('The preset is "own prompt" and the prompt is empty: write one.')
        return own.strip().replace("{name}", name)
    if preset is Preset.TAGS:
        return (
            "List what can be seen in this picture as short tags with commas between them, the "
            "most important first, at most 30. Only tags."
        )
    return f"{OPENING} {SUBJECTS[preset].format(name=name)} {MANNERS}"
