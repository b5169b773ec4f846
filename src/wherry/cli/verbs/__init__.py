"""One module per verb. Each has `COMMAND`: its flags, its arguments, and the function that carries it out."""
