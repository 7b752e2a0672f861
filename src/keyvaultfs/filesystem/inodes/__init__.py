"""Who the kernel was told of, and who has what open: the one owner of numbers, references, directories and handles."""
