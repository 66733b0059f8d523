"""The passes of the compiler, one file each, named for what it does."""
