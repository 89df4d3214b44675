"""Documents as memories: read, divided, compared with what the bank has of them, remembered.

A file becomes a `Document` (`reading`, `converting`), its text blocks (`markdown`, `plain`, `pages`), those
parts of the size that trains well (`sections`, `division`), and parts, beside what the bank has of the same
source, a plan (`plan`), which is carried out (`remembering`).
"""
