"""Quantised, palettised and sparse weights in the forms that Core ML stores."""
