"""What `./pi bench` measures: one module each, with HELP, add_arguments(parser) and run(args)."""
