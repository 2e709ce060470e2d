"""Phantoms that resemble people: whole bodies with limbs, drawn by rule; `datasets.phantom.people.person` puts them together."""
