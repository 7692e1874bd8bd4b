"""The five families of procedural images, one module each with one `draw(draws, size)` function."""
