"""What `make reliability` measures: the table of docs/reliability.md, made by running it."""
