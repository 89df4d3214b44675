"""What speaks to a server from other programs, in the words of their frameworks. Knows HTTP alone."""
