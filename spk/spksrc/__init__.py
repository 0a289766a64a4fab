"""The recipe for SynoCommunity's toolchain spksrc: see README.md."""
