"""Numbers with their units, as messages write them."""


def format_bytes(count: float) -> str:
    """Writes a number of bytes with a unit (powers of 1000), such as 8.4 MB."""
    if count >= 1e12:
        return f"{count / 1e12:.3g} TB"
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} KB"
