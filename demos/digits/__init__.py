"""Handwritten digits: a compound pipeline of three hyperfunctions, evolved from random weights. No gradients."""
