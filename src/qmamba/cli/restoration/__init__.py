"""Commands that restore images, learn to, and make such networks small."""
