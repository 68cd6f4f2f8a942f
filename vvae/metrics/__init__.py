"""Numbers with what exactly was computed."""
