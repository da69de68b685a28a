"""Settled decisions as labelled statements, one JSON line each: what retraining learns from.

A row has the fields of a corpus row (`trainer.statements.corpus`), those by which `trainer.evaluation.reviews` finds a
statement again, and where the label comes from:

    id                "review-" and the flag's id
    text              the statement as the reviewers saw it; null without `--with-text`, and where it is gone
    label             "unsafe" (accept, wrong_recommendation) or "safe" (reject)
    recommendation    id of the one that the label is against: the flag's, or the one that reviewers named
    category          the flag's; of a safe row, what it was wrongly flagged for
    difficulty        null: nobody measured it (the corpus reader wants one for unsafe rows: whoever mixes rows into a
                      corpus chooses it)
    parent            null: the row is a family of its own
    statement         12 hex digits of the SHA-256 of the normalised text, the key of `reviews`; null without text
    reviewer          "adjudicated"
    source            "review"
    decision          accept, reject, wrong_recommendation
    reviewers         how many made this decision
    dissenting        how many made another one, `unsure` among them
    decided_at        when the last of those who made it did (RFC 3339)
    flags             ids of the flags on this very statement that were settled so, the latest first; `id` is its
    message_id, tenant, start, end, statement_sha256, score, verdict     of the first flag
    model             {"name", "version"} that flagged it
    guideline         {"id", "version"}
    origin            {"topic", "partition", "offset"} of the message, or null

Rows are one a statement (by `statement_sha256`), oldest decision first. A statement that was settled as safe in one
place and as unsafe in another has no row: it is counted as conflicting. `unsure` and what is not settled give no row.
"""
