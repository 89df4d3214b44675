"""The console at `/mega`: a page for people who look after memories.

Static files and nothing else: the page asks the routes that everybody asks, with the key that its reader
gives it. `files` reads them, `routes` serves them.
"""
