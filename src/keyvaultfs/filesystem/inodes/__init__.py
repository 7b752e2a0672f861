"""What the kernel has of the file system: numbers, references, names and open files. Each is kept for a successor.

========= ===================================================================================
`table`   the one owner of all of it, which the rest of the file system asks
`nodes`   what an inode, a directory, a name that watchers see, and an open file are
`entries` which inode each name stands for, as the kernel caches it
`dirents` the names of the root as watchers know them, and the inodes of directories
`handles` open files
`numbers` inode numbers
`slots`   the memory in which all of it is kept for a successor
`records` the form of what is in that memory
========= ===================================================================================
"""
