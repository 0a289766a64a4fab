"""Lossless conversion on the way out, for a peer that does not take the stored transfer syntax."""
