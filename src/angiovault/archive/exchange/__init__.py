"""Files in and out without a network: import and export."""
