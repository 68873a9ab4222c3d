"""The project package: settings, URLs, processes and the supervisor behind `make run`; imports nothing by itself."""
