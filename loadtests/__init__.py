"""Load tests: scenarios, and what drives a real server with them. Not part of the installed package."""
