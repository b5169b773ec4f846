"""Not for import: the directory that `bin/wherry-runc` puts before the standard library while the interpreter starts, see `encodings` in it."""
