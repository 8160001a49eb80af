"""Networks prepared for inference on a GPU."""
