"""The command line: `kvshelf`. Each module adds its commands to the group in `gateway/__main__.py`."""
