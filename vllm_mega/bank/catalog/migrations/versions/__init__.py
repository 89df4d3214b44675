"""One file a revision; released ones never change."""
