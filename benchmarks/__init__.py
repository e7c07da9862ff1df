"""Tables and comparisons, run by hand."""
