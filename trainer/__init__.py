"""From guideline documents to a model package: the part of Guardline that learns.

One module per stage, one artefact of the run folder between neighbours: `guidelines` (document to recommendations) ->
`corpus` (recorded completions to labelled statements and splits without leakage) -> `encoder` (supervised contrastive
fine-tuning) -> `classifier` (logistic regression, calibration, thresholds) -> `export` (ONNX, Triton repository,
manifest) -> `evaluation` and `report` (the exported package against the frozen encoder). `pipeline` runs them in order
and skips what is done; `artifacts` says what lies where. Of the monitor it uses the text functions and the check path,
so that training, evaluation and serving see the same text; `demo` alone starts the whole of it.
"""

import os

# Read when huggingface_hub loads.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
