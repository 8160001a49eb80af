"""Colors: the conversion of any stored samples to sRGB, ICC profiles, other color descriptions."""
