"""Alembic's scripts: how the catalog's tables came to be what they are."""
