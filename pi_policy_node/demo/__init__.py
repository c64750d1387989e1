"""What `./pi demo` is made of: the launch, the programme, the judge, the film and the live view."""
