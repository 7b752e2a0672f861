"""What each path of a mount is made of. The file system knows paths, and the cache knows secrets."""
