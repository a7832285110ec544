"""Template sentences about a concept, for pictures without captions."""

from __future__ import annotations

import random

from ..records import Template

SENTENCES = {
    Template.OBJECT: (
        *("a photo of {}", "a close-up photo of {}", "a bright photo of {}", "a dark photo of {}"),
        *("a cropped photo of {}", "a clean photo of {}", "a detailed view of {}"),
        *("a good photo of {}", "a photo of one {}", "a rendering of {}", "a picture of {}"),
    ),
    Template.PERSON: (
        *("a photo of {}", "a portrait of {}", "a close-up of {}", "a candid photo of {}"),
        *("a picture of {}", "a bright photo of {}", "a dark photo of {}", "a snapshot of {}"),
    ),
    Template.STYLE: (
        *("a picture in the style of {}", "a painting in the style of {}", "{} style"),
        *("an artwork in the style of {}", "a close-up in the style of {}"),
        *("a bright picture in the style of {}", "a detailed picture in the style of {}"),
    ),
}


def template_caption(
    template: Template, placeholder: str, class_word: str, caption: str, rng: random.Random
) -> str:
    """A random sentence about the concept, followed by the caption if there is one."""
    subject = f"{placeholder} {class_word}".strip()
    sentence = rng.choice(SENTENCES[template]).format(subject)
    return f"{sentence}, {caption}" if caption else sentence


def first_template(template: Template, placeholder: str, class_word: str) -> str:
    """The plainest sentence of a template, as the caption of a picture without one."""
    return SENTENCES[template][0].format(f"{placeholder} {class_word}".strip())
