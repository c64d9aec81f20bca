"""Prompts → corrected outlines: what a prompt is, what answers it, and how many clicks that takes."""
