"""Evaluation: are the right memories used, and are the answers right?

`data` reads what is asked, `scoring` says what counts as right, `tasks` asks a model and counts, `report`
writes it down. Knows no engine: the model is whatever answers (`tasks.Model`).
"""
