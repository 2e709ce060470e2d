"""Random cases of a prepared data set as a page, with what looks odd about each named by rule."""
