"""Text: sources, extraction, filters, deduplication, PII and tokenization, as datatrove blocks on Ray."""
