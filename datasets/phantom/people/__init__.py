"""Phantoms that resemble people: whole bodies, drawn by rule; `datasets.phantom.people.person` puts them together."""
