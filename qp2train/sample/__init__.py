"""Drawn H&E-like slides with known truth, and a small QuPath project made of them: for the demo and for trying out."""
