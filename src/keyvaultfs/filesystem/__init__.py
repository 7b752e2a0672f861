"""The pyfuse3 side: inodes, names, attributes, errno."""
