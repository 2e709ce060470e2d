"""The data sets, a module for each layout."""
