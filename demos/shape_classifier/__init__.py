"""Colour and shape of drawn images: patch features, two heads side by side, one combined answer. No gradients."""
