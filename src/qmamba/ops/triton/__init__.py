"""The selective scan on a GPU, in Triton."""
