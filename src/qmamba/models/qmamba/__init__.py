"""QMamba and LQMamba: image quality with a vision Mamba."""
