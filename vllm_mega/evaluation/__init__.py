"""Evaluation: are the right memories used, are the answers right, is anything forgotten or harmed?

`data` reads what is asked, `scoring` says what counts as right (`judge`: what the user's own judge says).
`tasks`, `compositional`, `forgetting` and `general` ask a model and count; `baselines` trains what they are
compared with; `study` runs all of it. `report` holds the figures, `page` puts them in order for people,
`plots` draws, `render` makes Markdown and HTML, `output` writes.
Knows no engine: the model is whatever answers (`model.Model`).
"""
