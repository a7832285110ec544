"""The pack's socket types, each declared once."""

from __future__ import annotations

from comfy_api.latest import io

Dataset = io.Custom("PIVOTAL_DATASET")
Captioner = io.Custom("PIVOTAL_CAPTIONER")
Concepts = io.Custom("PIVOTAL_CONCEPTS")
Adapter = io.Custom("PIVOTAL_ADAPTER")
Optimizer = io.Custom("PIVOTAL_OPTIMIZER")
Objective = io.Custom("PIVOTAL_OBJECTIVE")
Bundle = io.Custom("PIVOTAL_BUNDLE")
Previews = io.Custom("PIVOTAL_PREVIEWS")
Validation = io.Custom("PIVOTAL_VALIDATION")
Run = io.Custom("PIVOTAL_RUN")
