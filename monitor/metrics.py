"""Every Prometheus metric of the monitor, with a sentence each. Times in seconds, counters end in `_total`."""

from __future__ import annotations

from monitor.instruments import Counter, Gauge, Histogram
from monitor.types import Verdict

MESSAGES = Counter(
    "guardline_messages_total", "Inputs decided on, by verdict; a redelivered one counts again.", ["verdict"]
)
for _verdict in Verdict:
    MESSAGES.labels(_verdict.value)  # a series that begins at 1 has not increased, by Prometheus' reckoning
STATEMENTS = Counter("guardline_statements_total", "Statements of readable inputs, by verdict.", ["verdict"])
VERIFIED = Counter(
    "guardline_verified_statements_total", "Statements that the verifier read, or that could do without.", ["outcome"]
)
CACHE_HITS = Counter("guardline_cache_hits_total", "Statements whose score was remembered.")
DUPLICATES = Counter("guardline_duplicates_total", "Inputs that were done with before and so published nothing.")
DEAD_LETTERS = Counter("guardline_dead_letters_total", "Inputs sent to the dead-letter topic, by reason.", ["reason"])
for _fault_of_ours in ("processing_error", "output_too_large"):
    DEAD_LETTERS.labels(_fault_of_ours)
WITHHELD = Counter("guardline_statements_withheld_total", "Flags and reviews beyond the limit of one message.")
SCORER_FAILURES = Counter("guardline_scorer_failures_total", "Times the scorer did not answer.")
FALLBACK_BATCHES = Counter("guardline_fallback_batches_total", "Batches scored in-process while Triton was away.")
STORE_FAILURES = Counter("guardline_store_failures_total", "Times the store did not answer and was done without.")
PUBLISH_RETRIES = Counter("guardline_publish_retries_total", "Times an event had to be published again.")
LAG = Gauge("guardline_lag_records", "Records of a partition that are not done with.", ["topic", "partition"])
OLDEST_SECONDS = Gauge("guardline_oldest_chunk_seconds", "Age of the longest waiting chunk; grows while work is stuck.")
IN_FLIGHT = Gauge("guardline_chunks_in_flight", "Chunks of records between intake and acknowledgement.")
BATCH_ROWS = Histogram(
    "guardline_batch_rows", "Statements or pairs in one batch of a model.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
MODEL_INFO = Gauge("guardline_model_info", "1 for the model in use, 0 for those before it.", ["name", "version"])
MODEL_REFUSED = Counter("guardline_models_refused_total", "Models that the pointer named and that failed a check.")
SHADOW = Counter(
    "guardline_shadow_messages_total", "Messages that a challenger scored as well.", ["champion", "challenger"]
)
SHADOW_SKIPPED = Counter("guardline_shadow_skipped_total", "Messages that a challenger should have scored and did not.")
PROCESS_SECONDS = Histogram(
    "guardline_process_seconds",
    "From taking a chunk of records to the broker's acknowledgement of all its events.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
