"""The Hugging Face twin: the two files that every release ships verbatim as its remote code."""
