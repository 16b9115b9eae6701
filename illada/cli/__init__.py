"""One command per verb; thin."""
