"""What we rely on inside other packages, as data, and how it is checked. Imports none of them by itself."""
