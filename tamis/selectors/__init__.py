"""Components that choose documents: one per file."""
