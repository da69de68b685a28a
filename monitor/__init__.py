"""From a Kafka topic of LLM outputs to flags: the part of Guardline that runs all day.

The path of a message, file by file: `intake` (bytes to message) -> `segmentation` and `text` (statements with exact
offsets, `disguise` undone) -> `scope`, `medicines` and `language` (could it concern the guideline, can it be read?) ->
`context` and `assertion` (what a statement lacks, what its author asserts) -> `screening` (cache, batches) ->
`assessment` (encoder, `alignment` and verifier by `encoding` and `microbatching`, over `onnx_scorer` or `triton`;
`claims` read; put together in `combination`) -> `policy` (pure: scores to verdicts) -> `records` (events) ->
`publisher`. `agents` drives it from Faust over `transport`, with `models` saying which package decides; `app` puts the
parts together, `check` runs the same path without a broker, `replay` reads a topic again, `health` answers the
orchestrator, `tracing` exports spans. `producers` publishes answers from inside platforms, `gateway` takes them by
HTTP, `schemas` writes down what crosses Kafka. `alerts` sends flags to people; `canary` notices when none come.
`default_package` is the model that ships.
"""

import os

# ONNX Runtime's Linux wheels report usage to their maker unless told not to before they load; a monitor of health data
# reports to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
