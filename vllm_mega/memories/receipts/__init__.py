"""Receipts for forgotten memories: signed with the bank's own key, verified against the bank."""
