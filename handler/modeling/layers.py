"""Layers that decoders share."""


def grid_shape(cells: int) -> tuple[int, int]:
    """Rows and columns of a grid over a square picture.

    Raises:
        ValueError: `cells` is no square number.
    """
    side = round(cells**0.5)
    if side * side != cells:
        raise ValueError(f"A grid of {cells} cells is no square.")
    return side, side
