"""From guideline documents to recommendations, passages and summaries: packs, readers, extraction, retrieval, diffs."""
