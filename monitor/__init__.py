"""From a Kafka topic of LLM outputs to flags: the part of Guardline that runs all day.

The path of a message, file by file: `intake` (bytes to message) -> `segmentation` and `text` (statements with exact
offsets) -> `scope` (could it concern the guideline?) -> `screening` (scores, cached and batched, from `onnx_scorer` or
`triton`) -> `policy` (pure: scores to verdicts) -> `records` (events) -> `publisher`. `agents` drives it from Faust,
`app` puts the parts together, `check` runs the same path without a broker.
"""

import os

# ONNX Runtime's Linux wheels report usage to their maker unless told not to before they load; a monitor of health data
# reports to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
