"""Who may do what: principals and their roles, keys, and the log of what was refused.

Nothing here knows memories, HTTP or command lines. Whoever answers for somebody asks `Principal.check`.
"""
