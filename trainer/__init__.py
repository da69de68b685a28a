"""From guideline documents to a model package: the part of Guardline that learns.

One package per part of the way, one artefact of the run folder between neighbouring stages:

    guideline     packs, documents -> recommendations (`guidelines`) -> passages (`retrieval`) -> `summaries`
    llm           language models behind one port: providers, batches, recorded completions, costs, prompts
    statements    `generation` and recorded completions -> checked statements, vignettes, splits (`assembly`)
    verifier      `pairs` on other topics -> `pretraining`; statements beside recommendations -> `stage`; `combining`
    model         `contrastive` fine-tuning -> `classifier` (head, calibration, thresholds) -> `export` (ONNX, Triton)
    evaluation    the exported package against the frozen encoder (`stage`), `suites`, `report`, `modelcard`

`pipeline` runs the stages in order and skips what is done; `artifacts` says what lies where. Of the monitor it uses the
text functions and the check path, so that training, evaluation and serving see the same text; `demo` alone starts the
whole of it.
"""

import os

# Read when huggingface_hub loads.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
