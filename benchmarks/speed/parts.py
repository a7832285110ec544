"""What is measured: each part is a group of contenders that make their steps in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .setup import Setup


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Contenders whose processes live at the same time; the first is compared with the others."""

    name: str
    setups: tuple[Setup, ...]
    rounds: int = 12
    cuda: bool = False
    """Whether it needs an NVIDIA GPU"""


def group(name: str, base: Setup, *contenders: str, rounds: int = 12) -> Part:
    """A part whose setups differ in nothing but the contender."""
    setups = tuple(replace(base, contender=contender) for contender in contenders)
    return Part(name=name, setups=setups, cuda=base.device == "cuda", rounds=rounds)


def row(**options: Any) -> Setup:
    return Setup(**{"contender": "ours", **options})


TINY = row(size="tiny", latent=16)
SD15 = row(size="sd15")
SDXL = row(size="sdxl")
PIVOTAL = row(size="tiny_sdxl", text="float32", concepts=1, phase="pivotal", rank=16)
HALF_TEXT = replace(PIVOTAL, text="float16")


def cpu_parts() -> list[Part]:
    """Parts for any machine; SD1.5 needs 16 GB of free memory, SDXL 14 GB."""
    batches = tuple(replace(TINY, batch=count) for count in (1, 2, 4, 8))
    concepts = tuple(
        row(size="tiny", latent=16, text="float32", text_layers=2, phase="pivotal", concepts=count)
        for count in (1, 4, 16, 64)
    )
    checkpointing = (SD15, replace(SD15, checkpointing="on"))
    after = replace(PIVOTAL, phase="after the pivot")
    dtypes = tuple(replace(SD15, dtype=one) for one in ("float32", "float16", "float8_e4m3fn"))
    returned = tuple(replace(one, freed="returned") for one in dtypes)
    return [
        group("tiny", TINY, "ours", "floor", "native", "native_bypass", "diffusers_peft"),
        Part(name="tiny batches", setups=batches),
        Part(name="tiny concepts", setups=concepts),
        group("sd15 floor", SD15, "ours", "floor", "diffusers_peft"),
        group("sd15 host attention", SD15, "floor", "floor_host", rounds=6),
        group("sd15 native", SD15, "ours", "native", rounds=10),
        group("sd15 native fp32", SD15, "ours", "native_fp32", rounds=10),
        group("sd15 native bypass", SD15, "ours", "ours_all", "native_bypass", rounds=10),
        Part(name="sd15 checkpointing", setups=checkpointing, rounds=10),
        Part(name="sd15 weights", setups=dtypes, rounds=6),
        Part(name="sd15 weights returned", setups=returned, rounds=6),
        Part(
            name="pivotal",
            setups=(PIVOTAL, replace(PIVOTAL, contender="whole_table")),
            rounds=10,
        ),
        Part(name="pivotal half", setups=(HALF_TEXT, PIVOTAL), rounds=6),
        Part(
            name="after the pivot",
            setups=(after, replace(PIVOTAL, concepts=0, phase="lora")),
            rounds=24,
        ),
        *(
            Part(name=f"sdxl {name}", setups=(replace(SDXL, contender=name),), rounds=6)
            for name in ("ours", "floor", "diffusers_peft")
        ),
    ]


def cuda_parts() -> list[Part]:
    """Parts for an NVIDIA GPU: SDXL at 1024 in bf16, and with smaller weights."""
    base = row(size="sdxl", latent=128, device="cuda", dtype="bfloat16", rank=16)
    contenders = ("ours", "ours_all", "floor", "native", "native_bypass", "diffusers_peft")
    parts = []
    for batch in (1, 4):
        for checkpointing in ("off", "on"):
            setup = replace(base, batch=batch, checkpointing=checkpointing)
            setups = (replace(setup, contender=name) for name in contenders)
            parts += [
                Part(name=f"cuda {one.contender} {batch} {checkpointing}", setups=(one,), cuda=True)
                for one in setups
            ]
    weights = tuple(replace(base, dtype=one) for one in ("float16", "float8_e4m3fn"))
    parts += [Part(name=f"cuda {one.dtype}", setups=(one,), cuda=True) for one in weights]
    text = replace(base, latent=128, text="bfloat16", concepts=1, phase="pivotal")
    after = replace(text, phase="after the pivot")
    plain = replace(text, concepts=0, phase="lora")
    parts.append(
        Part(name="cuda pivotal", setups=(text, replace(text, contender="whole_table")), cuda=True)
    )
    parts.append(Part(name="cuda after the pivot", setups=(after, plain), rounds=24, cuda=True))
    return parts
