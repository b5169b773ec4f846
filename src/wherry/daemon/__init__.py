"""wherryd: the command line, the configuration, and the composition of the engine. `main` is the way in, `serve` the life, `wiring` the parts."""
