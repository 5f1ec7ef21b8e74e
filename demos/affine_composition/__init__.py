"""Two affine maps, one after the other, that shall together rotate, scale and shift: nested systems. No gradients."""
