"""Builds the files that Synology's Package Center installs, and checks them (`python -m spk --help`)."""
