"""Labelled patches out of annotated slides."""
