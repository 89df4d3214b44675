"""Trainers at work: they lease jobs, train them side by side, and publish."""
